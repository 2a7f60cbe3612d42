// A member of a room by LiveKit's SDK for Node, as livekit_client.py is one by that for Python.
//
//   livekit_client.mjs URL TOKEN SECONDS

import {
  AudioFrame, AudioSource, AudioStream, LocalAudioTrack, LocalVideoTrack, Room, RoomEvent, TrackKind, TrackPublishOptions, TrackSource,
  VideoBufferType, VideoFrame, VideoSource, VideoStream,
} from '@livekit/rtc-node';

const [url, token, seconds] = process.argv.slice(2);
const [WIDTH, HEIGHT, RATE] = [640, 360, 48_000];
const seen = { frames: {}, sizes: {}, sound: {}, data: [], rpc: null };
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const room = new Room();

room.on(RoomEvent.TrackSubscribed, async (track, publication, { identity }) => {
  if (track.kind === TrackKind.KIND_VIDEO) {
    for await (const { frame } of new VideoStream(track)) {
      seen.frames[identity] = (seen.frames[identity] ?? 0) + 1;
      seen.sizes[identity] = [frame.width, frame.height];
    }
  } else {
    for await (const { data } of new AudioStream(track)) {
      const loud = data.reduce((sum, sample) => sum + Math.abs(sample), 0) / data.length;
      seen.sound[identity] = Math.max(loud, seen.sound[identity] ?? 0);
    }
  }
});
room.on(RoomEvent.DataReceived, (data, participant, kind, topic) => seen.data.push([participant?.identity, new TextDecoder().decode(data), topic]));
await room.connect(url, token, { autoSubscribe: true, dynacast: true });

const video = new VideoSource(WIDTH, HEIGHT);
const audio = new AudioSource(RATE, 1);
const options = (source) => { const made = new TrackPublishOptions(); made.source = source; return made; };
await room.localParticipant.publishTrack(LocalVideoTrack.createVideoTrack('picture', video), options(TrackSource.SOURCE_CAMERA));
await room.localParticipant.publishTrack(LocalAudioTrack.createAudioTrack('tone', audio), options(TrackSource.SOURCE_MICROPHONE));
const end = Date.now() + seconds * 1000;
const picture = (async () => {
  for (let number = 0; Date.now() < end; number++) {
    const bytes = new Uint8Array(WIDTH * HEIGHT * 4).fill(255);
    for (let y = 0; y < HEIGHT; y++) bytes.fill(0, y * WIDTH * 4, y * WIDTH * 4 + (number * 32) % (WIDTH * 4));
    video.captureFrame(new VideoFrame(bytes, WIDTH, HEIGHT, VideoBufferType.RGBA));
    await pause(66);
  }
})();
const tone = (async () => {
  const samples = RATE / 50;
  for (let number = 0; Date.now() < end; number++) {
    const data = Int16Array.from({ length: samples }, (_, i) => Math.sin(2 * Math.PI * 440 * (number * samples + i) / RATE) * 8_000);
    await audio.captureFrame(new AudioFrame(data, RATE, 1, samples));
  }
})();
await pause(seconds * 500);
await room.localParticipant.publishData(new TextEncoder().encode('hello from node'), { reliable: true, topic: 'greeting' });
for (const { identity } of room.remoteParticipants.values()) {
  if (identity === 'python') seen.rpc = await room.localParticipant.performRpc({ destinationIdentity: identity, method: 'who', payload: '' });
}
await Promise.all([picture, tone]);
console.log(JSON.stringify(seen));
// The SDK's threads would keep the process; what it had to say is said.
process.exit(0);
