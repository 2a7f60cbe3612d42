// Loss: publisher and viewer each behind a relay that loses 2 % or 10 % of all packets in both directions. The picture goes on,
// and what was lost is asked for and sent again about as often as it was lost.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, frameRate, moving, publish, stats, watch } from './browsers.mjs';
import { Relay } from './relay.mjs';
import { pause, serve } from './server.mjs';

const COUNTERS = {
  forwarded: 'distributary_forwarded_media_packets_total',
  retransmitted: 'distributary_retransmitted_packets_total',
  asked: 'distributary_sent_nacks_total',
  recovered: 'distributary_recovered_packets_total',
  lost: 'distributary_lost_upstream_packets_total',
  received: 'distributary_received_media_packets_total',
};

let server;
let browser;
let relays = [];
let publisher;
before(async () => {
  server = await serve('loss');
  browser = await chromium();
});
afterEach(closePages);
afterEach(() => {
  for (const relay of relays) relay.stop();
  relays = [];
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

async function lossyPair(room, loss, seed) {
  relays = [await Relay.start(server.mediaPort, { seed, loss }), await Relay.start(server.mediaPort, { seed: seed + 1, loss })];
  const way = (relay) => ({ codec: 'VP8', mediaPort: relay.port, connectMs: 40_000 });
  publisher = await publish(browser, server, room, { ...way(relays[0]), width: 320, height: 180, frameRate: 20, detail: 100 });
  return watch(browser, server, room, way(relays[1]));
}

/** Measures `ms` under `loss`: the viewer's frame rate and what the server and the relays counted meanwhile. */
async function under(loss, viewer, ms) {
  for (const relay of relays) relay.loss = loss;
  await pause(1_500);
  const before = await counters();
  const sentBefore = await stats(publisher);
  const { rate, first, last } = await frameRate(viewer, ms);
  const after = await counters();
  const sent = await stats(publisher);
  const counted = Object.fromEntries(Object.keys(after).map((key) => [key, after[key] - before[key]]));
  const seen = {
    rate,
    sentRate: ((sent.framesSent - sentBefore.framesSent) * 1000) / (sent.at - sentBefore.at),
    limitedBy: sent.limitedBy,
    ...counted,
    retransmittedAtViewer: last.retransmittedPacketsReceived - first.retransmittedPacketsReceived,
    lostAtViewer: last.packetsLost - first.packetsLost,
    packetsAtViewer: last.packetsReceived - first.packetsReceived,
  };
  server.note(`loss ${loss}: ${JSON.stringify(seen)}`);
  return seen;
}

async function counters() {
  const values = await server.metrics(Object.values(COUNTERS));
  const named = Object.fromEntries(Object.entries(COUNTERS).map(([key, name]) => [key, values[name]]));
  return { ...named, lostBefore: relays[0].lost.up, lostBehind: relays[1].lost.down };
}

const between = (value, low, high, what, seen) => assert.ok(
  value >= low && value <= high,
  `${what}: ${value.toFixed(3)}, expected ${low} to ${high}; ${JSON.stringify(seen)}`,
);

test('2 % and 10 % loss in both directions: decoding goes on, retransmissions match the losses', { timeout: 120_000 }, async () => {
  const viewer = await lossyPair('loss', 0, 20);
  await moving(viewer);
  const clean = await under(0, viewer, 5_000);
  assert.ok(clean.rate > 4, `without loss ${clean.rate} frames/s`);

  const light = await under(0.02, viewer, 10_000);
  // Against what the publisher sent meanwhile, which a busy machine changes and loss hardly does.
  between(light.rate / light.sentRate, 0.6, 1.4, 'frames decoded per frame sent at 2 %', light);
  // And against what came without loss: neither may the publisher be slowed down by what is lost.
  between(light.rate / clean.rate, 0.6, Infinity, 'frame rate at 2 % in proportion to the rate without loss', light);
  between(light.retransmitted / light.forwarded, 0.002, 0.08, 'retransmitted per packet forwarded at 2 %', light);
  // The viewer's count is that of its video; a retransmission or the request for it may be lost too.
  between(light.retransmitted / light.lostAtViewer, 0.6, 3, 'retransmitted per video packet lost towards the viewer', light);
  // The relay loses sound and RTCP too, which nobody asks for again, and some 25 packets in all: chance has its part.
  between(light.recovered / light.lostBefore, 0.12, 1.2, 'recovered per packet lost on the publisher\'s way', light);
  between(light.asked, 1, Infinity, 'retransmissions asked of the publisher', light);
  assert.ok(light.retransmittedAtViewer > 0, 'the viewer counts retransmissions (RTX)');

  const heavy = await under(0.1, viewer, 12_000);
  assert.ok(heavy.rate > 2, `at 10 % decoding goes on: ${JSON.stringify(heavy)}`);
  between(heavy.retransmitted / heavy.forwarded, 0.03, 0.4, 'retransmitted per packet forwarded at 10 %', heavy);
  between(heavy.recovered / heavy.lostBefore, 0.15, 1.2, 'recovered per packet lost on the publisher\'s way', heavy);
  await moving(viewer, { frames: 5, what: 'viewer at 10 % loss' });

  // Soon after: the publisher's estimate and the viewer's buffer take a few seconds to recover.
  let healed;
  for (let attempt = 0; attempt < 4; attempt++) {
    healed = await under(0, viewer, 3_000);
    if (healed.rate / healed.sentRate >= 0.7) break;
  }
  between(healed.rate / healed.sentRate, 0.7, 1.4, 'frames decoded per frame sent after the loss has ended', healed);
});

test('sessions come up and a picture comes through 10 % loss of everything, handshakes included', { timeout: 120_000 }, async () => {
  const viewer = await lossyPair('lossy-start', 0.1, 70);
  await moving(viewer, { frames: 10, ms: 40_000 });
});
