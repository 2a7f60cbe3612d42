// werift, an independent stack in TypeScript: watches. It decodes nothing, so the VP8 payloads are read here (RFC 7741).

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { RTCPeerConnection, RTCRtpCodecParameters, Vp8RtpPayload } from 'werift';
import { chromium, closePages, publish } from '../browser/browsers.mjs';
import { serve, until } from '../browser/server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('werift');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
  // werift keeps timers and sockets open after close(), which would keep this process for ever. The runner sets the exit code
  // before this comes.
  setTimeout(() => process.exit(), 1_000);
});

const VP8 = new RTCRtpCodecParameters({
  mimeType: 'video/VP8',
  clockRate: 90_000,
  payloadType: 120,
  rtcpFeedback: [{ type: 'nack' }, { type: 'nack', parameter: 'pli' }],
});
const OPUS = new RTCRtpCodecParameters({ mimeType: 'audio/opus', clockRate: 48_000, channels: 2, payloadType: 121 });

async function watch(room) {
  const pc = new RTCPeerConnection({
    codecs: { audio: [OPUS], video: [VP8] },
    iceServers: [],
    iceUseIpv6: false,
    iceAdditionalHostAddresses: ['127.0.0.1'],
  });
  const packets = { audio: [], video: [] };
  pc.onRemoteTransceiverAdded.subscribe((transceiver) => listen(transceiver, packets));
  for (const kind of ['audio', 'video']) listen(pc.addTransceiver(kind, { direction: 'recvonly' }), packets);
  await pc.setLocalDescription(await pc.createOffer());
  const response = await fetch(`${server.url}/whep/${room}`, {
    method: 'POST',
    headers: { 'content-type': 'application/sdp' },
    body: pc.localDescription.sdp,
  });
  const body = await response.text();
  assert.equal(response.status, 201, body);
  await pc.setRemoteDescription({ type: 'answer', sdp: body });
  return { pc, packets };
}

function listen(transceiver, packets) {
  transceiver.onTrack.subscribe((track) => track.onReceiveRtp.subscribe((packet) => packets[track.kind].push(packet)));
}

/** Whole VP8 frames out of RTP packets that follow each other without a gap. */
function frames(packets) {
  const found = [];
  let frame = null;
  let expected;
  for (const { header, payload } of packets) {
    if (expected !== undefined && header.sequenceNumber !== expected) frame = null;
    expected = (header.sequenceNumber + 1) & 0xffff;
    const vp8 = Vp8RtpPayload.deSerialize(payload);
    if (vp8.sBit === 1 && vp8.pid === 0) frame = { key: vp8.isKeyframe, parts: [], timestamp: header.timestamp };
    if (!frame || frame.timestamp !== header.timestamp) continue;
    frame.parts.push(vp8.payload);
    if (header.marker) {
      found.push({ key: frame.key, bytes: Buffer.concat(frame.parts) });
      frame = null;
    }
  }
  return found;
}

test('chromium publishes VP8, werift watches', { timeout: 60_000 }, async () => {
  await publish(browser, server, 'to-werift', { codec: 'VP8' });
  const { pc, packets } = await watch('to-werift');
  try {
    await until('whole VP8 frames after a key frame, and Opus', 20_000, () => {
      const all = frames(packets.video);
      const key = all.findIndex((f) => f.key);
      return key >= 0 && all.length - key > 60 && packets.audio.length > 100;
    }, () => `${packets.video.length} video packets, ${frames(packets.video).length} frames, ${packets.audio.length} audio packets`);

    const all = frames(packets.video);
    const key = all.find((f) => f.key);
    // RFC 6386 §9.1: after the three bytes of the frame tag a key frame has this start code, then width and height.
    assert.deepEqual([...key.bytes.subarray(3, 6)], [0x9d, 0x01, 0x2a], 'start code of a key frame');
    assert.ok([640, 480, 320].includes(key.bytes.readUInt16LE(6) & 0x3fff), 'width in the key frame');
    assert.ok(new Set(all.map((f) => f.bytes.toString('base64'))).size > all.length * 0.9, 'frames differ from each other');
    assert.ok(packets.video.every((p) => p.header.payloadType === 120), 'payload type as offered by this viewer');
    const silence = packets.audio.every((p) => p.payload.length < 10);
    assert.ok(!silence, 'Opus packets carry sound');
  } finally {
    await pc.close();
  }
});
