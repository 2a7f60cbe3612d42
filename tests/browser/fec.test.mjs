// Forward error correction. Towards viewers: two viewers behind relays that delay everything and lose 5 % of it; one offers red and ulpfec, the other does
// not. Neither may ask for what it lost, nor is sent it again, so what the first decodes beyond the
// other it has recovered from FEC packets. Chromium counts FEC packets of FlexFEC alone, so its own word for it is its frames. From publishers: what one sends behind such a relay is recovered by the
// server, which counts it.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, publish, stats, watch } from './browsers.mjs';
import { Relay } from './relay.mjs';
import { pause, serve, until } from './server.mjs';

const SENT = 'distributary_sent_fec_packets_total';

let server;
let browser;
let relays = [];
const stopRelays = () => {
  for (const relay of relays) relay.stop();
  relays = [];
};
before(async () => {
  server = await serve('fec');
  browser = await chromium();
});
afterEach(closePages);
afterEach(stopRelays);
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A publisher, and two viewers of it that differ in `fec` alone. What they counted in `ms` on a path that loses. */
async function compare(room, codec, { noNack, loss, ms }) {
  await publish(browser, server, room, { codec, width: 320, height: 180, frameRate: 20, detail: 20 });
  const viewers = [];
  for (const fec of [true, false]) {
    const relay = await Relay.start(server.mediaPort, { seed: 11, delay: 60 });
    relays.push(relay);
    viewers.push(await watch(browser, server, room, { codec, fec, noNack, mediaPort: relay.port, connectMs: 20_000 }));
  }
  const answers = await Promise.all(viewers.map((page) => page.evaluate(() => window.session.answer)));
  assert.deepEqual(answers.map((answer) => answer.includes('ulpfec/90000')), [true, false]);
  for (const page of viewers) await moving(page);
  const sentBefore = (await server.metrics([SENT]))[SENT];
  for (const relay of relays) relay.loss = loss;
  await pause(6_000);
  const first = await Promise.all(viewers.map(stats));
  await pause(ms);
  const last = await Promise.all(viewers.map(stats));
  const sent = (await server.metrics([SENT]))[SENT] - sentBefore;
  const fields = ['framesDecoded', 'packetsReceived', 'packetsLost', 'retransmittedPacketsReceived', 'nackCount', 'freezeCount', 'freezeSeconds'];
  const [withFec, without] = last.map((now, i) => Object.fromEntries(fields.map((field) => [field, now[field] - first[i][field]])));
  server.note(`${codec}${noNack ? '' : ', with NACK'}: ${sent} FEC packets; ${JSON.stringify({ withFec, without })}`);
  for (const relay of relays) relay.loss = 0;
  return { sent, withFec, without };
}

for (const codec of ['VP8', 'VP9']) {
  test(`${codec}: what is lost is recovered from FEC packets, without being asked for`, { timeout: 90_000 }, async () => {
    const seen = await compare(`fec-${codec}`, codec, { noNack: true, loss: 0.05, ms: 15_000 });
    const { sent, withFec, without } = seen;
    assert.ok(sent > 20, `FEC packets are sent: ${JSON.stringify(seen)}`);
    assert.ok(withFec.packetsLost > 20 && withFec.nackCount === 0, `it loses packets and does not ask: ${JSON.stringify(seen)}`);
    assert.ok(withFec.framesDecoded > 30, `the picture goes on: ${JSON.stringify(seen)}`);
    assert.ok(withFec.framesDecoded > 2 * without.framesDecoded, `because of FEC: ${JSON.stringify(seen)}`);
  });
}

const UPSTREAM = {
  fec: 'distributary_received_fec_packets_total',
  computed: 'distributary_fec_recovered_packets_total',
  recovered: 'distributary_recovered_packets_total',
  lost: 'distributary_lost_upstream_packets_total',
  asked: 'distributary_sent_nacks_total',
  keyFrames: 'distributary_key_frame_requests_total',
  media: 'distributary_received_media_packets_total',
};

async function upstream() {
  const values = await server.metrics(Object.values(UPSTREAM));
  return Object.fromEntries(Object.entries(UPSTREAM).map(([key, name]) => [key, values[name]]));
}

const malformed = async () => {
  const line = (await server.get('/metrics')).split('\n').find((text) => text.startsWith('distributary_dropped_packets_total') && text.includes('"fec_malformed"'));
  return Number(line?.split(' ').at(-1) ?? 0);
};

for (const [codec, noNack] of [['VP8', true], ['VP8', false], ['VP9', true]]) {
  const how = noNack ? 'without being asked for again' : 'beside what is asked for again';
  test(`${codec}: what a publisher loses is recovered from its FEC packets, ${how}`, { timeout: 90_000 }, async () => {
    const room = `fec-up-${codec}-${noNack}`;
    const relay = await Relay.start(server.mediaPort, { seed: 21, delay: 60 });
    relays.push(relay);
    await publish(browser, server, room, {
      codec, fec: true, noNack, width: 320, height: 180, frameRate: 20, detail: 20, mediaPort: relay.port, connectMs: 20_000,
    });
    const viewer = await watch(browser, server, room, { codec });
    await moving(viewer);
    relay.loss = 0.05;
    // Until its losses are told to the publisher.
    await pause(6_000);
    const [first, before, losses] = [await stats(viewer), await upstream(), relay.lost.up];
    await pause(15_000);
    const [last, after] = [await stats(viewer), await upstream()];
    const counted = Object.fromEntries(Object.keys(after).map((key) => [key, after[key] - before[key]]));
    const fields = ['framesDecoded', 'keyFramesDecoded', 'packetsReceived', 'packetsLost', 'nackCount', 'pliCount', 'freezeCount', 'freezeSeconds'];
    const viewed = Object.fromEntries(fields.map((field) => [field, last[field] - first[field]]));
    const seen = JSON.stringify({ codec, noNack, ...counted, relayLost: relay.lost.up - losses, viewed, malformed: await malformed() });
    console.log(seen);
    server.note(seen);
    assert.ok(counted.fec > 20, `Chromium sends FEC packets: ${seen}`);
    assert.ok(counted.computed > 10, `the server computes what was lost: ${seen}`);
    assert.ok(viewed.framesDecoded > 100, `the picture goes on: ${seen}`);
    assert.equal(await malformed(), 0, seen);
    if (noNack) assert.equal(counted.asked, 0, seen);
  });
}

test('a simulcast publisher that may send FEC is seen', { timeout: 90_000 }, async () => {
  const room = 'fec-simulcast';
  const publisher = await publish(browser, server, room, { codec: 'VP8', fec: true, simulcast: true, width: 960, height: 540, frameRate: 15 });
  assert.match(await publisher.evaluate(() => window.session.answer), /ulpfec\/90000/);
  const viewer = await watch(browser, server, room);
  await moving(viewer);
  await until('the publisher sends more than one encoding', 20_000, async () => (await stats(publisher)).layers.length >= 2);
  await moving(viewer, { what: 'viewer, after more encodings started,' });
});
