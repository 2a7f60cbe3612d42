// Makes the test picture and tone off the page, because a page in a background tab gets no animation frames and
// throttled timers, while a worker keeps its time: the publisher's tab may be hidden behind the viewer's.
//
// Two kinds of work: `{ kind: 'generate' }` writes frames and samples into the streams of two track generators;
// `{ kind: 'tick' }` only tells the page when to draw, for browsers without generators.

import { testCard, toneAt } from './testcard.js';

const SAMPLE_RATE = 48_000;
const CHUNK = 480;

self.onmessage = ({ data }) => {
  if (data.kind === 'tick') every(1000 / data.fps, () => self.postMessage('tick'));
  if (data.kind === 'generate') {
    generatePicture(data);
    generateTone(data.audio);
  }
};

/** Calls `work` at a steady rate; a late call does not delay those after it. */
function every(periodMs, work) {
  let next = performance.now() + periodMs;
  const step = () => {
    work();
    next = Math.max(next + periodMs, performance.now() - periodMs);
    setTimeout(step, next - performance.now());
  };
  setTimeout(step, periodMs);
}

function generatePicture({ video, ...shape }) {
  const canvas = new OffscreenCanvas(shape.width, shape.height);
  const draw = testCard(canvas.getContext('2d', { alpha: false, willReadFrequently: true }), shape);
  const writer = video.getWriter();
  let frame = 0;
  every(1000 / shape.fps, () => {
    frame += 1;
    if (writer.desiredSize <= 0) return; // the encoder is behind: skip, as a camera would
    draw(frame, Date.now());
    writer.write(new VideoFrame(canvas, { timestamp: performance.now() * 1000 })).catch(() => self.close());
  });
}

function generateTone(audio) {
  const writer = audio.getWriter();
  const start = Date.now() / 1000; // by the wall clock, so that the beep falls together with the flash
  let written = 0;
  every(10, () => {
    const due = (Date.now() / 1000 - start) * SAMPLE_RATE;
    if (due - written > SAMPLE_RATE) written = Math.floor(due); // the machine slept: do not catch up
    while (written + CHUNK <= due) {
      const samples = Float32Array.from({ length: CHUNK }, (_, i) => toneAt(start + (written + i) / SAMPLE_RATE));
      const timestamp = Math.round((written / SAMPLE_RATE) * 1e6);
      written += CHUNK;
      const chunk = { format: 'f32-planar', sampleRate: SAMPLE_RATE, numberOfChannels: 1, numberOfFrames: CHUNK, timestamp };
      writer.write(new AudioData({ ...chunk, data: samples })).catch(() => self.close());
    }
  });
}
