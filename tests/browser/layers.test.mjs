// Layers: one publisher sends several qualities, and each viewer is given the one it asks for. The choice changes every two seconds for a
// minute, and the viewer's decoder must not notice: the picture's width follows, nothing freezes that does not freeze for a viewer who
// stays with his choice too, and nothing has to be asked for again.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, open, publish, stats, unnoticed, walk, watch } from './browsers.mjs';
import { pause, serve, until } from './server.mjs';

const SWITCHES = 30;
const STEP_MS = 2_000;

let server;
let browser;
before(async () => {
  server = await serve('layers');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Asks for a layer as the page would: from the browser, so that CORS is part of it. */
async function choose(viewer, wish) {
  const status = await viewer.evaluate(async (body) => {
    const headers = { 'content-type': 'application/json' };
    return (await fetch(`${window.session.location}/layer`, { method: 'POST', headers, body: JSON.stringify(body) })).status;
  }, wish);
  assert.equal(status, 204);
}

/** What a publisher sends of each encoding: rid, width, frames. */
function encodings(publisher) {
  return publisher.evaluate(async () => {
    const { pc } = window.session ?? window.distributary;
    const reports = [...(await pc.getStats()).values()].filter((r) => r.type === 'outbound-rtp' && r.kind === 'video');
    return reports.map(({ rid, frameWidth, framesSent }) => ({ rid, frameWidth, framesSent }));
  });
}

async function flowing(publisher) {
  let sent = [];
  await until('the publisher sends all three encodings', 40_000, async () => {
    const before = await encodings(publisher);
    await pause(500);
    sent = await encodings(publisher);
    return sent.length === 3 && sent.every((now, i) => now.framesSent > (before[i]?.framesSent ?? 0));
  }, () => JSON.stringify(sent));
}

// 960x540 is the least of which Chromium makes three encodings. Of VP9 and AV1 it makes encodings of their own only if each says how many
// layers it has; else they would be one stream's.
for (const [codec, scalabilityMode] of [['VP8'], ['H264'], ['VP9', 'L1T2'], ['AV1', 'L1T2']]) {
  test(`${codec}: a viewer goes from encoding to encoding and its decoder does not notice`, { timeout: 180_000 }, async () => {
    const room = `layers-${codec}`;
    const publisher = await publish(browser, server, room, {
      codec, simulcast: true, scalabilityMode, width: 960, height: 540, frameRate: 15,
    });
    const viewer = await watch(browser, server, room);
    const control = await watch(browser, server, room);
    await Promise.all([moving(viewer), moving(control)]);
    await flowing(publisher);
    await choose(control, { encodingId: 'f' });
    await choose(viewer, { encodingId: 'q' });
    await pause(STEP_MS);
    const widths = Object.fromEntries((await encodings(publisher)).map(({ rid, frameWidth }) => [rid, frameWidth]));
    const steps = Array.from({ length: SWITCHES }, (_, step) => ['f', 'q', 'h'][step % 3]).map((rid) => ({ rid, width: widths[rid] }));
    const seen = await walk(viewer, control, steps, STEP_MS, (page, { rid }) => choose(page, { encodingId: rid }));
    unnoticed(codec, seen, 20);
    let told;
    await until('the API tells what each viewer is sent', 10_000, async () => {
      const { sessions } = await server.room(room);
      const published = sessions.find((session) => session.purpose === 'publish');
      const sent = sessions.filter((session) => session.purpose === 'watch').map((session) => session.layer_sent?.encoding);
      told = { layers: published.layers.length, sent: sent.toSorted() };
      return told.layers === 3 && `${told.sent}` === 'f,h';
    }, () => JSON.stringify(told));
  });
}

test('no picture while none is wanted, and a clear answer to what cannot be', { timeout: 60_000 }, async () => {
  const room = 'layers-none';
  await publish(browser, server, room, { codec: 'VP8', width: 320, height: 180 });
  const viewer = await watch(browser, server, room);
  await moving(viewer);
  await choose(viewer, { active: false });
  await pause(500);
  const before = await stats(viewer);
  await pause(1_500);
  const during = await stats(viewer);
  assert.equal(during.packetsReceived, before.packetsReceived, 'video stops');
  assert.ok(during.audioPackets > before.audioPackets + 30, 'sound goes on');
  await choose(viewer, {});
  await moving(viewer);
  const refused = await viewer.evaluate(async () => {
    const headers = { 'content-type': 'application/json' };
    const answer = await fetch(`${window.session.location}/layer`, { method: 'POST', headers, body: '{"encodingId":"nope"}' });
    return [answer.status, await answer.text()];
  });
  assert.equal(refused[0], 422);
  assert.match(refused[1], /"nope"; the publisher's encodings are: 0/);
});

test('the page switches off encodings that nobody watches, and on again when somebody does', { timeout: 120_000 }, async () => {
  const room = 'layers-off';
  const publisher = await open(browser, server, `/?room=${room}&do=publish&source=test&codec=VP8&simulcast=1&size=960x540&fps=15`);
  const viewer = await watch(browser, server, room);
  await moving(viewer);
  await flowing(publisher);
  await choose(viewer, { encodingId: 'q' });
  // Rids whose encodings sent no frame for a second.
  const still = async () => {
    const before = await encodings(publisher);
    await pause(1_000);
    const now = await encodings(publisher);
    return now.filter((encoding, i) => encoding.framesSent === before[i].framesSent).map(({ rid }) => rid).sort();
  };
  let off;
  await until('what nobody watches is switched off', 20_000, async () => {
    off = await still();
    return off.length === 2;
  }, () => JSON.stringify(off));
  assert.deepEqual(off, ['f', 'h']);
  await moving(viewer);
  const [before, asked] = [await stats(viewer), Date.now()];
  assert.equal(before.frameWidth, 240);
  await choose(viewer, { encodingId: 'f' });
  await until('what is asked for is seen', 6_000, async () => (await stats(viewer)).frameWidth === 960);
  const took = Date.now() - asked;
  console.log(JSON.stringify({ took }));
  assert.ok(!(await still()).includes('f'));
  await moving(viewer);
});
