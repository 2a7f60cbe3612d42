// Captures the vectors in tests/vectors/layers: what Chromium sends as scalable video, in the clear.
//
//   node browser/capture.mjs [MODE…]     (in tests/; a mode is one of those below, all by default)
//
// Two peer connections of one page, without encryption, with a relay between them that writes down the video packets. A key frame
// is asked for in the middle (RTCP PLI, which the relay makes up). Of what is captured, the packets from the start and from
// that key frame on are kept. A line of a vector is one packet:
//
//   sequence-number timestamp marker dependency-descriptor payload-length first-bytes-of-payload

import dgram from 'node:dgram';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { chromium } from './browsers.mjs';
import { pause, TESTS } from './server.mjs';

/** "plain": the dependency descriptor is not offered. Then Chromium writes more into VP8's descriptors. */
const MODES = [
  'AV1 L1T3', 'AV1 L3T3', 'AV1 L3T3_KEY', 'VP9 L3T3', 'VP9 L3T3_KEY', 'VP8 L1T3', 'H264 L1T2', 'VP9 L3T3 plain', 'VP8 L1T3 plain',
  'AV1 L2T2_KEY_SHIFT', 'VP9 L2T2_KEY_SHIFT',
];
const CLIENT = readFileSync(new URL('./client.js', import.meta.url), 'utf8');
const PAYLOAD_BYTES = 32;
/** Packets kept from the start, and again from the key frame that was asked for. */
const RUN = 150;

/** One side of the relay: what is sent to it goes out of the other side, to whoever was last heard there. */
async function side() {
  const socket = dgram.createSocket('udp4');
  await new Promise((done) => socket.bind(0, '127.0.0.1', done));
  return { socket, port: socket.address().port, peer: null };
}

async function connect(packet) {
  const [publisher, viewer] = [await side(), await side()];
  for (const [from, to] of [[publisher, viewer], [viewer, publisher]]) {
    from.socket.on('message', (bytes, peer) => {
      from.peer = peer;
      if (from === publisher) packet(bytes);
      if (to.peer) to.socket.send(bytes, to.peer.port, to.peer.address);
    });
  }
  return { publisher, viewer };
}

/** Runs in the page: publishes to itself through the relay. Returns payload type and extension id of what is sent. */
async function loop({ codec, scalabilityMode, plain, size, ports }) {
  const [publisher, viewer] = [new RTCPeerConnection(), new RTCPeerConnection()];
  const { stream } = window.client.testSource({ ...size, frameRate: 25, detail: 10 });
  const transceiver = publisher.addTransceiver(stream.getVideoTracks()[0], { direction: 'sendonly', sendEncodings: [{ scalabilityMode }] });
  window.client.prefer(transceiver, codec);
  window.client.offerDependencyDescriptor(transceiver, !plain);
  const gathered = async (pc) => {
    while (pc.iceGatheringState !== 'complete') await new Promise((done) => setTimeout(done, 20));
    return pc.localDescription.sdp;
  };
  const through = (sdp, port) => sdp
    .replace(/^a=candidate:.*\r\n/gim, '')
    .replace(/^a=mid:0\r\n/gim, `a=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 ${port} typ host\r\n`);
  await publisher.setLocalDescription(await publisher.createOffer());
  await viewer.setRemoteDescription({ type: 'offer', sdp: through(await gathered(publisher), ports.viewer) });
  // The answerer accepts the extension if its page asks for it.
  window.client.offerDependencyDescriptor(viewer.getTransceivers()[0], !plain);
  await viewer.setLocalDescription(await viewer.createAnswer());
  const answer = await gathered(viewer);
  await publisher.setRemoteDescription({ type: 'answer', sdp: through(answer, ports.publisher) });
  const number = (pattern) => Number(pattern.exec(answer)?.[1]);
  window.loop = { publisher, viewer };
  return { payloadType: number(/^a=rtpmap:(\d+) (?:AV1|VP9|VP8|H264)\//m), id: number(/^a=extmap:(\d+).*dependency-descriptor/m) };
}

/** Header length and dependency descriptor of an RTP packet (RFC 3550 §5.1, RFC 8285). */
function read(packet, id) {
  let length = 12 + 4 * (packet[0] & 15);
  let descriptor = '-';
  if (packet[0] & 0x10) {
    const oneByte = packet.readUInt16BE(length) === 0xbede;
    const end = length + 4 + 4 * packet.readUInt16BE(length + 2);
    for (let at = length + 4; at < end;) {
      if (packet[at] === 0) { at += 1; continue; }
      const [element, size, header] = oneByte ? [packet[at] >> 4, (packet[at] & 15) + 1, 1] : [packet[at], packet[at + 1], 2];
      at += header;
      if (element === id) descriptor = packet.subarray(at, at + size).toString('hex');
      at += size;
    }
    length = end;
  }
  return { length, descriptor };
}

function pictureLossIndication(media) {
  const packet = Buffer.from([0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]);
  media.copy(packet, 8);
  return packet;
}

async function capture(browser, mode) {
  const [codec, scalabilityMode, plain] = mode.split(' ');
  const page = await browser.newPage();
  await page.goto('about:blank');
  await page.evaluate(CLIENT);
  const packets = [];
  const relay = await connect((bytes) => packets.push(bytes));
  const ports = { publisher: relay.publisher.port, viewer: relay.viewer.port };
  // 720p: below it Chromium leaves spatial layers out.
  const size = { width: 1280, height: 720 };
  const { payloadType, id } = await page.evaluate(loop, { codec, scalabilityMode, plain, size, ports });
  const video = () => packets.filter((packet) => packet.length > 12 && packet[0] >> 6 === 2 && (packet[1] & 127) === payloadType);
  await pause(5_000);
  const before = video();
  const { port, address } = relay.publisher.peer;
  relay.publisher.socket.send(pictureLossIndication(before[0].subarray(8, 12)), port, address);
  await pause(2_500);
  const all = video();
  const structure = (packet) => plain || read(packet, id).descriptor.length > 20;
  const second = all.findIndex((packet, index) => index >= Math.max(RUN, before.length) && structure(packet));
  const lines = [...all.slice(0, RUN), ...all.slice(second, second + RUN)].flatMap((packet) => {
    const { length, descriptor } = read(packet, id);
    const payload = packet.subarray(length, packet.length - (packet[0] & 0x20 ? packet.at(-1) : 0));
    if (payload.length === 0) return [];
    const head = payload.subarray(0, PAYLOAD_BYTES).toString('hex');
    return [[packet.readUInt16BE(2), packet.readUInt32BE(4), packet[1] >> 7, descriptor, payload.length, head].join(' ')];
  });
  await page.close();
  const version = await browser.version();
  const file = path.join(TESTS, 'vectors', 'layers', `${mode.replaceAll(' ', '-')}.txt`.toLowerCase());
  const heading = [
    `${mode} at ${size.width}x${size.height} by ${version}: tests/browser/capture.mjs`,
    `sequence-number timestamp marker dependency-descriptor payload-length first-${PAYLOAD_BYTES}-bytes-of-payload`,
  ];
  writeFileSync(file, [...heading.map((line) => `# ${line}`), ...lines, ''].join('\n'));
  console.log(`${file}: ${lines.length} packets, payload type ${payloadType}, extension ${id}`);
}

const browser = await chromium(['--disable-webrtc-encryption']);
for (const mode of process.argv.length > 2 ? process.argv.slice(2) : MODES) await capture(browser, mode);
await browser.close();
process.exit(0);
