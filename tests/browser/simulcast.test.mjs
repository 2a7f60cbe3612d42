// A publisher that sends three encodings of one picture (RFC 8853): viewers get one continuous, moving stream of them.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, publish, stats, watch } from './browsers.mjs';
import { serve, until } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('simulcast');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const codec of ['VP8', 'H264']) {
  test(`${codec}: viewers of a simulcast publisher see moving pictures`, { timeout: 90_000 }, async () => {
    const room = `simulcast-${codec}`;
    const publisher = await publish(browser, server, room, { codec, simulcast: true, width: 1280, height: 720, frameRate: 15 });
    const viewers = [await watch(browser, server, room), await watch(browser, server, room)];
    for (const viewer of viewers) {
      const seen = await moving(viewer);
      assert.ok([320, 640, 1280].includes(seen.width), `the picture is one of the three encodings: ${seen.width} wide`);
    }
    await until('the publisher sends more than one encoding', 20_000, async () => (await stats(publisher)).layers.length >= 2);
    for (const viewer of viewers) await moving(viewer, { what: 'viewer, after more encodings started,' });
  });
}
