// Who joins soon after a key frame begins with the cached run: it sees a picture without that the publisher makes another key frame, and
// is not left behind by the time that the run was late.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, open, publish, stats, watch } from './browsers.mjs';
import { pause, serve, until } from './server.mjs';

const RUNS = 'distributary_cached_runs_total';
const REQUESTS = 'distributary_key_frame_requests_total';

let server;
let browser;
before(async () => {
  // One worker: others keep a run only while they have viewers.
  server = await serve('joining', { workers: 1 });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Watches, and says how many milliseconds after the connection the first picture was decoded. */
const firstPicture = (page, url) => page.evaluate(async (where) => {
  await window.client.watch({ url: where });
  const start = performance.now();
  while ((await window.client.stats()).framesDecoded === 0 && performance.now() - start < 10_000) {
    await new Promise((done) => setTimeout(done, 10));
  }
  return performance.now() - start;
}, url);

for (const codec of ['VP8', 'VP9', 'H264', 'AV1']) {
  test(`${codec}: who joins soon after another begins with the cached run and catches up`, { timeout: 120_000 }, async () => {
    const room = `joining-${codec}`;
    await publish(browser, server, room, { codec });
    await moving(await watch(browser, server, room));
    await pause(1_500);
    const [another, late] = [await open(browser, server), await open(browser, server)];
    const url = `${server.url}/whep/${room}`;
    // For this one the publisher is asked.
    await firstPicture(another, url);
    const earlier = await server.metrics([RUNS, REQUESTS]);
    const waited = await firstPicture(late, url);
    const later = await server.metrics([RUNS, REQUESTS]);
    const pli = [await stats(another), await stats(late)].map(({ pliCount }) => pliCount);
    const what = `a run and no request; the viewers asked ${pli} times`;
    assert.deepEqual(later, { [RUNS]: earlier[RUNS] + 1, [REQUESTS]: earlier[REQUESTS] }, what);
    assert.ok(waited < 1_000, `the first picture after ${Math.round(waited)} ms`);

    // By the publisher's clock, which two of its reports tell, both show the same moment.
    await pause(2_000);
    let [shown, other] = [];
    await until('both know the publisher\'s clock', 10_000, async () => {
      [shown, other] = [await stats(late), await stats(another)];
      return Math.abs(shown.behind - other.behind) < 1e6;
    });
    const seen = JSON.stringify({ waited, behind: shown.behind - other.behind, freezes: shown.freezeCount, pli: shown.pliCount, decoded: shown.framesDecoded });
    assert.ok(shown.framesDecoded > 15 && shown.behind - other.behind < 150, seen);
    assert.equal(shown.pliCount, 0, seen);
  });
}
