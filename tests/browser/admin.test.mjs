// The admin page: it tells what the server does, as it changes, and wants a token where the server wants one.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, open, publish, watch } from './browsers.mjs';
import { KEY, OUT, SECRET, command, configWithKeys, serve, until } from './server.mjs';

let folder;
let server;
let locked;
let browser;
before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'admin-'));
  server = await serve('admin', { args: ['--dev', '--record-folder', folder] });
  locked = await serve('admin-token', { args: ['--config', configWithKeys('admin-token')] });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await locked?.stop();
  await server?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

const text = (page, id) => page.$eval(`#${id}`, (element) => element.innerText);
const figure = (page, name) => page.$eval(`[data-graph="${name}"] output`, (output) => output.textContent);

test('rooms, sessions, load and events are told as they change', { timeout: 120_000 }, async () => {
  const page = await open(browser, server, '/admin');
  await page.setViewport({ width: 1280, height: 720 });
  // A page that nobody looks at asks for nothing.
  await page.emulateFocusedPage(true);
  await until('nobody is here', 10_000, async () => /Nobody is here/.test(await text(page, 'rooms')));
  const publisher = await publish(browser, server, 'lesson', { codec: 'VP8' });
  const viewer = await watch(browser, server, 'lesson');
  await moving(viewer);
  const rows = () => page.$$eval('.room tr[data-session]', (lines) => lines.map((line) => [...line.cells].map((cell) => cell.textContent)));
  let seen;
  await until('a publisher and a viewer are listed with what they send and get', 20_000, async () => {
    seen = await rows();
    const [publishes, watches] = ['publish', 'watch'].map((purpose) => seen.find((cells) => cells[1] === purpose));
    const rate = (cell = '') => Number(/^([\d.]+)/.exec(cell)?.[1] ?? 0);
    return publishes?.[2].startsWith('connected') && publishes[3].includes('VP8') && rate(publishes[5]) > 0 && watches?.[2].startsWith('connected') && rate(watches[6]) > 0;
  }, () => JSON.stringify(seen));
  await until('the graphs move', 10_000, async () => (await figure(page, 'sessions')) === '2' && !['–', '0 kb/s'].includes(await figure(page, 'out')));
  assert.equal(await page.$$eval('#workers figure', (all) => all.length), await server.get('/metrics').then((all) => all.match(/^distributary_worker_busy_ratio\{/gm).length));
  await page.screenshot({ path: path.join(OUT, 'admin-1280x720.png') });
  const recordings = () => page.$$eval('#recordings tr[data-state]', (lines) => lines.map((line) => [line.dataset.state, ...[...line.cells].map((cell) => cell.textContent)]));
  await until('what is recorded is listed', 20_000, async () => (await recordings()).some((cells) => cells[0] === 'recording' && cells[1] === 'lesson'), async () => JSON.stringify(await recordings()));
  await page.setViewport({ width: 390, height: 844 });
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)) <= 0, 'it does not scroll sideways');
  await page.screenshot({ path: path.join(OUT, 'admin-390x844.png') });

  for (const session of [viewer, publisher]) await session.evaluate(() => window.client.leave());
  await until('all is told, the last first', 60_000, async () => /The room lesson ended/.test(await text(page, 'events')), () => text(page, 'events'));
  assert.match(await text(page, 'events'), /The room lesson ended.*left lesson.*publishes in lesson.*The room lesson began/s);
  assert.match(await text(page, 'rooms'), /Nobody is here/);
  await until('the recording has ended', 10_000, async () => (await recordings()).some((cells) => cells[0] === 'ended'), async () => JSON.stringify(await recordings()));
  const file = await page.evaluate(async () => (await fetch(document.querySelector('#recordings a').href)).arrayBuffer().then((bytes) => bytes.byteLength));
  assert.ok(file > 10_000, `${file} bytes behind the link`);
});

test('where the server wants a token the page asks for it, and takes only one that may list rooms', { timeout: 60_000 }, async () => {
  const page = await open(browser, locked, '/admin');
  await until('it asks', 10_000, async () => /token is needed/i.test(await text(page, 'token-words')), () => text(page, 'token-words'));
  const give = async (...grants) => {
    await page.type('#token', command('token', '--room', 'any', '--key', KEY, '--secret', SECRET, ...grants).trim());
    await page.click('#token-form button');
  };
  await give('--subscribe');
  await until('it says which grant is missing', 10_000, async () => /roomList/.test(await text(page, 'token-words')), () => text(page, 'token-words'));
  await give('--list');
  await until('it shows the rooms', 10_000, async () => /Nobody is here/.test(await text(page, 'rooms')));
  assert.equal(await page.$eval('#token-form', (form) => form.hidden), true);
});
