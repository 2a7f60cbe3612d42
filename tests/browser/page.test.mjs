// The page at `/`: what it shows when all is well, in a wide and in a narrow window, and what it says when something is not.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, open, publish, stats } from './browsers.mjs';
import { KEY, OUT, SECRET, configWithKeys, serve, token, until } from './server.mjs';

let server;
let locked;
let browser;
before(async () => {
  server = await serve('page');
  locked = await serve('page-token', { args: ['--config', configWithKeys('page-token')] });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await locked?.stop();
  await server?.stop();
});

/** Waits for the notice over the picture and returns all of its text. */
async function notice(page) {
  await page.waitForFunction(() => document.body.dataset.state === 'error', { timeout: 10_000 });
  return page.$eval('#notice', (element) => element.innerText);
}

const sideways = (page) => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);

for (const [width, height] of [[1280, 720], [390, 844]]) {
  test(`screenshots at ${width}x${height}`, { timeout: 90_000 }, async () => {
    const room = `screenshot-${width}`;
    await open(browser, server, `/?room=${room}&do=publish&source=test&codec=VP8&fps=15`);
    const viewer = await open(browser, server, '/');
    await viewer.setViewport({ width, height });
    await viewer.screenshot({ path: path.join(OUT, `page-${width}x${height}-start.png`) });
    assert.ok((await sideways(viewer)) <= 0, 'the start page does not scroll sideways');

    await viewer.close();
    const watching = await open(browser, server, `/?room=${room}&do=watch&muted=1`);
    await watching.setViewport({ width, height });
    await watching.waitForFunction(() => window.distributary.pc !== null, { timeout: 10_000 });
    await moving(watching);
    await new Promise((done) => setTimeout(done, 3_000)); // so that the graphs have something to show
    await watching.screenshot({ path: path.join(OUT, `page-${width}x${height}-live.png`) });
    assert.ok((await sideways(watching)) <= 0, 'the live page does not scroll sideways');
    let told;
    await until('the API tells how often the picture has stood still', 10_000, async () => {
      const watched = (await server.room(room)).sessions.find((session) => session.purpose === 'watch');
      told = [watched.freezes, watched.frozen_seconds, (await stats(watching)).freezeCount];
      return Number.isInteger(told[0]) && told[0] === told[2];
    }, () => JSON.stringify(told));
  });
}

test('camera: the button publishes what the camera sees', { timeout: 60_000 }, async () => {
  const publisher = await open(browser, server, '/?room=camera');
  await publisher.click('[data-source="camera"]');
  const viewer = await open(browser, server, '/?room=camera&do=watch&muted=1');
  await viewer.waitForFunction(() => window.distributary.pc !== null, { timeout: 10_000 });
  // Chromium's fake camera is a plain field with a small, slowly turning disc.
  await moving(viewer, { contrast: 2, changed: 0.0005 });
});

test('the page asks for no larger picture than it shows', { timeout: 90_000 }, async () => {
  await open(browser, server, '/?room=place&do=publish&source=test&codec=VP8&size=1280x720&fps=15&simulcast=1');
  const viewer = await open(browser, server, '/?room=place&do=watch&muted=1');
  await viewer.setViewport({ width: 300, height: 500 });
  await viewer.waitForFunction(() => window.distributary.pc !== null, { timeout: 10_000 });
  let seen;
  await until('a picture as small as its place', 40_000, async () => {
    const place = await viewer.$eval('#video', (video) => video.clientWidth * devicePixelRatio);
    seen = { place, width: await viewer.$eval('#video', (video) => video.videoWidth) };
    return place <= 320 && seen.width > 0 && seen.width <= 320;
  }, () => JSON.stringify(seen));
  await viewer.setViewport({ width: 900, height: 800 });
  await until('a larger picture', 30_000, async () => (await viewer.$eval('#video', (video) => video.videoWidth)) >= 640);
});

test('a second publisher is told that the room is taken', { timeout: 60_000 }, async () => {
  await publish(browser, server, 'taken', { codec: 'VP8' });
  const second = await open(browser, server, '/?room=taken&do=publish&source=test');
  assert.match(await notice(second), /already publishes/i);
});

test('without a token, and with a wrong one, the page asks for one', { timeout: 60_000 }, async () => {
  const wrong = token({ key: KEY, secret: 'not the secret at all, really not', room: 'locked', publish: true });
  for (const fragment of ['', `#token=${wrong}`]) {
    const page = await open(browser, locked, `/?room=locked&do=publish&source=test${fragment}`);
    assert.match(await notice(page), /access token/i);
    await page.close();
  }
});

test('a token for watching does not publish', { timeout: 60_000 }, async () => {
  const watcher = token({ key: KEY, secret: SECRET, room: 'locked', subscribe: true });
  const page = await open(browser, locked, `/?room=locked&do=publish&source=test#token=${watcher}`);
  assert.match(await notice(page), /does not allow/i);
  await page.close();
});

test('with the right tokens the page publishes and watches', { timeout: 60_000 }, async () => {
  const giver = token({ key: KEY, secret: SECRET, room: 'locked', publish: true });
  const watcher = token({ key: KEY, secret: SECRET, room: 'locked', subscribe: true });
  await open(browser, locked, `/?room=locked&do=publish&source=test&codec=VP8&size=640x360#token=${giver}`);
  const viewer = await open(browser, locked, `/?room=locked&do=watch&muted=1#token=${watcher}`);
  await viewer.waitForFunction(() => window.distributary.pc !== null, { timeout: 10_000 });
  await moving(viewer);
});
