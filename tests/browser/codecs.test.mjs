// The main job: one browser tab publishes on the server's page, three tabs watch, for every video codec, with Opus heard.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, open, stats } from './browsers.mjs';
import { serve } from './server.mjs';

const VIEWERS = 3;

let server;
let browser;
before(async () => {
  server = await serve('codecs');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const codec of ['VP8', 'H264', 'VP9', 'AV1']) {
  test(`${codec}: chromium publishes, three chromium tabs watch and hear`, { timeout: 120_000 }, async () => {
    const room = codec.toLowerCase();
    const publisher = await open(browser, server, `/?room=${room}&do=publish&source=test&codec=${codec}&size=640x360&fps=20`);
    // Not before it publishes: a page that is still starting when another comes to the front may be put to sleep by the browser.
    await publisher.waitForFunction(() => window.distributary.pc !== null, { timeout: 10_000 });
    const viewers = [];
    for (let i = 0; i < VIEWERS; i += 1) viewers.push(await open(browser, server, `/?room=${room}&do=watch&muted=1`));

    for (const [i, viewer] of viewers.entries()) {
      await viewer.waitForFunction(() => window.distributary.pc !== null, { timeout: 10_000 });
      const seen = await moving(viewer, { what: `viewer ${i}`, ms: 30_000 });
      assert.match(seen.codec, new RegExp(codec, 'i'), 'the codec that arrives is the one published');
      assert.match(seen.srtpCipher, /GCM/, 'viewer: SRTP cipher');
      await heard(viewer, { what: `viewer ${i}` });
    }
    const sent = await stats(publisher);
    assert.match(sent.srtpCipher, /GCM/, 'publisher: SRTP cipher');
    assert.equal(await viewers[0].evaluate(() => window.distributary.state), 'live', 'the page says so too');
  });
}
