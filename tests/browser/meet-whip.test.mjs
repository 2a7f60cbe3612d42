// Sessions of WHIP and WHEP are members of the rooms that people meet in.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, publish, watch } from './browsers.mjs';
import { meet, seesAndHears, shows, voice } from './meeting.mjs';
import { serve } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('meet-whip');
  browser = await chromium([`--use-file-for-fake-audio-capture=${voice()}`]);
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

test('who publishes by WHIP is a participant, until it leaves', { timeout: 90_000 }, async () => {
  const ada = await meet(browser, server, '/meet/stage', 'Ada');
  const publisher = await publish(browser, server, 'stage', { codec: 'VP8' });
  const seen = await shows(ada, 'there is another tile', (all) => Object.keys(all).length === 2);
  const [name] = Object.keys(seen).filter((each) => each !== 'Ada (you)');
  await seesAndHears(ada, 'Ada', [name]);
  assert.equal(await publisher.evaluate(() => window.client.leave()), 200);
  await shows(ada, 'it is gone', (all) => Object.keys(all).length === 1);
});

test('a WHEP viewer of a meeting sees and hears who speaks', { timeout: 90_000 }, async () => {
  await meet(browser, server, '/meet/seen', 'Ada');
  const viewer = await watch(browser, server, 'seen');
  // Chromium's fake camera is a plain field with a small, slowly turning disc.
  await moving(viewer, { contrast: 2, changed: 0.0005 });
  await heard(viewer);
});
