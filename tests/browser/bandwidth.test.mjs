// A viewer on a path whose rate changes, 3, 1, 0.3 and 3 Mb/s, behind a relay with a queue: it is given the layer that fits. On the way down the
// server sends no more than the path carries within a second, and the picture does not stand still for long; on the way up the better layer
// is there within ten. Longer with DISTRIBUTARY_TEST_LONG=1.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, publish, stats, watch } from './browsers.mjs';
import { Relay } from './relay.mjs';
import { pause, serve, until } from './server.mjs';

const STEP_MS = process.env.DISTRIBUTARY_TEST_LONG === '1' ? 30_000 : 15_000;
/** A layer is judged as steady from then on. */
const SETTLED_MS = 8_000;
const LOOK_MS = 100;

let server;
let browser;
let relay;
before(async () => {
  server = await serve('bandwidth');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  relay?.stop();
  await browser?.close();
  await server?.stop();
});

const percentile = (values, share) => values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? 0;

/** Looks at a viewer and at what comes for it, several times a second. */
async function observe(viewer, control, ms, looks) {
  const end = performance.now() + ms;
  while (performance.now() < end) {
    const [seen, steady] = await Promise.all([stats(viewer), stats(control)]);
    looks.push({ at: performance.now(), offered: relay.offered, width: seen.frameWidth, freezes: seen.freezeSeconds, control: steady.freezeSeconds });
    await pause(LOOK_MS);
  }
}

/** When what is offered to the path first stayed below `rate` for 300 ms, from the first look on. */
function followed(looks, rate) {
  const from = looks[0].at;
  for (const [index, look] of looks.entries()) {
    const later = looks.slice(index).find(({ at }) => at - look.at >= 300);
    if (!later) return undefined;
    if (((later.offered - look.offered) * 1_000) / (later.at - look.at) <= rate) return look.at - from;
  }
  return undefined;
}

test('the layer follows a path of 3, 1, 0.3 and 3 Mb/s', { timeout: 300_000 }, async () => {
  relay = await Relay.start(server.mediaPort, { delay: 25, rate: 3e6, queue: 200 });
  const room = 'bandwidth';
  await publish(browser, server, room, {
    codec: 'VP8', simulcast: true, width: 960, height: 540, frameRate: 15, detail: 60, maxBitrates: { q: 120_000, h: 500_000, f: 1_700_000 },
  });
  const viewer = await watch(browser, server, room, { codec: 'VP8', mediaPort: relay.port, connectMs: 20_000 });
  const control = await watch(browser, server, room, { codec: 'VP8' });
  await Promise.all([moving(viewer), moving(control)]);
  await until('both see the best layer', 60_000, async () => (await stats(viewer)).frameWidth === 960 && (await stats(control)).frameWidth === 960,
    () => JSON.stringify(relay.waits.slice(-3)));
  const steps = [];
  for (const [rate, width] of [[3e6, 960], [1e6, 480], [0.3e6, 240], [3e6, 960]]) {
    const isDown = rate < relay.rate;
    relay.rate = rate;
    relay.waits = [];
    const looks = [];
    await observe(viewer, control, SETTLED_MS, looks);
    relay.waits = [];
    await observe(viewer, control, STEP_MS - SETTLED_MS, looks);
    const [first, last] = [looks[0], looks.at(-1)];
    const steady = looks.filter(({ at }) => at - first.at >= SETTLED_MS);
    const arrived = looks.find((look) => look.width === width);
    const { layer_sent: sent, target_bitrate: target } = await viewer.evaluate(async () => (await fetch(`${window.session.location}/layer`)).json());
    steps.push({
      rate, isDown, width,
      followedMs: Math.round(followed(looks, 1.05 * rate)),
      seenMs: arrived && Math.round(arrived.at - first.at),
      share: steady.filter((look) => look.width === width).length / steady.length,
      queueP95: Math.round(percentile(relay.waits, 0.95)),
      frozen: last.freezes - first.freezes, controlFrozen: last.control - first.control,
      sent: sent?.encoding, target,
    });
    console.log(JSON.stringify(steps.at(-1)));
  }
  const all = JSON.stringify(steps);
  server.note(all);
  for (const step of steps) {
    if (step.isDown) {
      assert.ok(step.followedMs <= 1_000, `no more than the path carries is sent within a second: ${all}`);
      assert.ok(step.frozen <= step.controlFrozen + 0.5, `the picture does not stand still: ${all}`);
    }
    assert.ok(step.seenMs <= 10_000, `the layer that fits is seen: ${all}`);
    assert.ok(step.queueP95 < 100, `the queue is short: ${all}`);
  }
  const share = steps.reduce((sum, step) => sum + step.share, 0) / steps.length;
  assert.ok(share >= 0.85, `${share} of the time the best layer that fits is seen: ${all}`);
});
