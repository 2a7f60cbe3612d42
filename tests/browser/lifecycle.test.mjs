// People come and go: viewers outlast the publisher, and may come before it.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, open, publish, stats, watch } from './browsers.mjs';
import { pause, serve, until } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('lifecycle');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

test('publisher stops and returns: viewers resume by themselves on the same peer connection', { timeout: 90_000 }, async () => {
  const first = await publish(browser, server, 'returns', { codec: 'VP8' });
  const viewers = [await watch(browser, server, 'returns'), await watch(browser, server, 'returns')];
  for (const viewer of viewers) {
    await moving(viewer);
    await viewer.evaluate(() => { window.connections = [window.session.pc]; });
  }

  assert.equal(await first.evaluate(() => window.client.leave()), 200, 'DELETE of the WHIP session');
  await first.close();
  await until('the picture stands', 10_000, async () => {
    const earlier = (await stats(viewers[0])).framesDecoded;
    await pause(1_000);
    return (await stats(viewers[0])).framesDecoded === earlier;
  });
  for (const viewer of viewers) assert.equal((await stats(viewer)).state, 'connected', 'the viewer stays connected without a publisher');

  await publish(browser, server, 'returns', { codec: 'VP8' });
  for (const viewer of viewers) {
    await moving(viewer);
    await heard(viewer);
    assert.ok(await viewer.evaluate(() => window.connections[0] === window.session.pc), 'the same peer connection');
  }
});

test('publisher vanishes without a word and returns: viewers resume', { timeout: 120_000 }, async () => {
  const first = await publish(browser, server, 'vanishes', { codec: 'VP8' });
  const viewer = await watch(browser, server, 'vanishes');
  await moving(viewer);
  // A closed peer connection sends a DTLS close_notify at most; no DELETE. Its room may not stay locked for ever.
  await first.evaluate(() => window.session.pc.close());
  await first.close();
  const page = await open(browser, server);
  await until('the room takes a new publisher', 60_000, async () => page.evaluate(
    (url) => window.client.publish({ url, codec: 'VP8' }).then(() => true, (error) => {
      if (!/409/.test(error.message)) throw error;
      return new Promise((done) => setTimeout(() => done(false), 1_000));
    }),
    `${server.url}/whip/vanishes`,
  ));
  await moving(viewer);
});

test('viewer before the publisher is admitted and gets the picture', { timeout: 60_000 }, async () => {
  const viewer = await watch(browser, server, 'early');
  assert.equal((await stats(viewer)).framesDecoded, 0);
  await publish(browser, server, 'early', { codec: 'VP8' });
  await moving(viewer);
  await heard(viewer);
});

test('viewer who joins late gets a key frame at once', { timeout: 60_000 }, async () => {
  await publish(browser, server, 'late', { codec: 'VP8' });
  await moving(await watch(browser, server, 'late'));
  const viewer = await open(browser, server);
  const ms = await viewer.evaluate(async (url) => {
    await window.client.watch({ url });
    const start = performance.now();
    while ((await window.client.stats()).framesDecoded === 0) {
      if (performance.now() - start > 10_000) break;
      await new Promise((done) => setTimeout(done, 20));
    }
    return performance.now() - start;
  }, `${server.url}/whep/late`);
  assert.ok(ms < 2_000, `first frame ${Math.round(ms)} ms after the connection`);
});
