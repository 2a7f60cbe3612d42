// Where a publisher's picture and sound come from: the camera, the screen, or a generated test picture with a tone.

import { testCard } from './testcard.js';

/** Returns `{ stream, stop() }`, or throws what the browser threw, or a MissingCapture. */
export async function openSource(kind, options) {
  if (kind === 'test') return openTest(options);
  if (!navigator.mediaDevices) throw new MissingCapture('insecure');
  if (kind === 'screen' && !navigator.mediaDevices.getDisplayMedia) throw new MissingCapture('screen');
  const stream = kind === 'screen' ? await openScreen() : await openCamera();
  return { stream, stop: () => stopTracks(stream) };
}

/** The browser has no such capture here: `insecure` (neither https nor localhost) or `screen` (most phones). */
export class MissingCapture extends Error {
  constructor(what) {
    super(what);
    this.name = 'MissingCapture';
    this.what = what;
  }
}

/** The camera with its microphone; with only one of them when the other does not exist. */
async function openCamera() {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  const wishes = [{ video, audio: true }, { video }, { audio: true }];
  let missing;
  for (const wish of wishes) {
    try {
      return await navigator.mediaDevices.getUserMedia(wish);
    } catch (error) {
      if (error.name !== 'NotFoundError') throw error;
      missing ??= error;
    }
  }
  throw missing;
}

async function openScreen() {
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 30 } }, audio: true });
  for (const track of stream.getVideoTracks()) track.contentHint = 'detail';
  return stream;
}

function openTest({ width, height, fps, room }) {
  const shape = { width, height, fps, room };
  const source = 'MediaStreamTrackGenerator' in window ? generated(shape) : painted(shape);
  for (const track of source.stream.getVideoTracks()) track.contentHint = 'motion';
  return source;
}

/** In a worker, through track generators: goes on in a hidden tab, and needs no click before there is sound. */
function generated(shape) {
  const video = new MediaStreamTrackGenerator({ kind: 'video' });
  const audio = new MediaStreamTrackGenerator({ kind: 'audio' });
  const worker = new Worker(new URL('./test-worker.js', import.meta.url), { type: 'module' });
  const streams = { video: video.writable, audio: audio.writable };
  worker.postMessage({ kind: 'generate', ...shape, ...streams }, Object.values(streams));
  const stream = new MediaStream([video, audio]);
  return {
    stream,
    stop() {
      worker.terminate();
      stopTracks(stream);
    },
  };
}

/** On the page, for browsers without generators. The tone starts with the first click or key, by the browser's rule. */
function painted(shape) {
  const canvas = Object.assign(document.createElement('canvas'), { width: shape.width, height: shape.height });
  const draw = testCard(canvas.getContext('2d', { alpha: false }), shape);
  const worker = new Worker(new URL('./test-worker.js', import.meta.url), { type: 'module' });
  let frame = 0;
  worker.onmessage = () => draw((frame += 1), Date.now());
  worker.postMessage({ kind: 'tick', fps: shape.fps });
  const audio = new AudioContext();
  const wake = () => audio.resume();
  addEventListener('pointerdown', wake);
  addEventListener('keydown', wake);
  const output = audio.createMediaStreamDestination();
  const note = new OscillatorNode(audio, { frequency: 330 });
  note.connect(new GainNode(audio, { gain: 0.1 })).connect(output);
  note.start();
  const stream = new MediaStream([...canvas.captureStream(shape.fps).getTracks(), ...output.stream.getTracks()]);
  return {
    stream,
    stop() {
      worker.terminate();
      removeEventListener('pointerdown', wake);
      removeEventListener('keydown', wake);
      audio.close();
      stopTracks(stream);
    },
  };
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}
