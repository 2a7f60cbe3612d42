// What an operator meets: health, metrics that Prometheus' own linter accepts, the room list, tokens, and Ctrl-C.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, publish, watch } from './browsers.mjs';
import { KEY, TESTS, command, configWithKeys, serve, until } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('operator');
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

test('metrics pass promtool, with sessions running', { timeout: 60_000 }, async () => {
  const promtool = ['/usr/bin/promtool', path.join(TESTS, '.cache', 'promtool', 'usr', 'bin', 'promtool')].find(existsSync);
  assert.ok(promtool, 'promtool is missing: run tests/run, which installs it');
  await publish(browser, server, 'metrics', { codec: 'VP8' });
  await moving(await watch(browser, server, 'metrics'));
  const metrics = await server.get('/metrics');
  const { status, stdout, stderr } = spawnSync(promtool, ['check', 'metrics'], { input: metrics, encoding: 'utf8' });
  assert.equal(status, 0, `promtool: ${stdout}${stderr}`);
  assert.ok((await server.metric('distributary_forwarded_media_packets_total')) > 0, 'forwarded packets are counted');
});

test('the room list names the room with its sessions', { timeout: 60_000 }, async () => {
  await publish(browser, server, 'listed', { codec: 'VP8' });
  await moving(await watch(browser, server, 'listed'));
  const text = JSON.stringify(await server.rooms());
  assert.match(text, /"listed"/, text);
});

test('the token subcommand makes a token that the server takes', { timeout: 60_000 }, async () => {
  const config = configWithKeys('operator-token');
  const locked = await serve('operator-token', { args: ['--config', config] });
  try {
    const words = command('token', '--config', config, '--room', 'made', '--publish').trim();
    const [, claims] = words.split('.').map((part) => Buffer.from(part, 'base64url').toString());
    assert.equal(JSON.parse(claims).iss, KEY);
    assert.equal(JSON.parse(claims).video.room, 'made');
    await publish(browser, locked, 'made', { codec: 'VP8', token: words });
    await assert.rejects(publish(browser, locked, 'other', { codec: 'VP8', token: words }), /40[13]/);
  } finally {
    await locked.stop();
  }
});

test('Ctrl-C ends the server cleanly in under a second, viewers connected', { timeout: 60_000 }, async () => {
  const own = await serve('operator-stop');
  await publish(browser, own, 'stop', { codec: 'VP8' });
  await moving(await watch(browser, own, 'stop'));
  const start = Date.now();
  const { code, signal } = await own.stop();
  assert.equal(signal, null, 'it ended by itself');
  assert.equal(code, 0);
  assert.ok(Date.now() - start < 1_000, `it took ${Date.now() - start} ms`);
});

test('both I/O backends carry a picture', { timeout: 90_000 }, async () => {
  for (const io of ['mmsg', 'uring']) {
    const own = await serve(`operator-${io}`, { io, workers: 1 });
    try {
      await publish(browser, own, io, { codec: 'VP8' });
      await moving(await watch(browser, own, io), { what: `viewer by --io ${io}` });
      await until('something is forwarded', 2_000, async () => (await own.metric('distributary_forwarded_media_packets_total')) > 0);
    } finally {
      await closePages();
      await own.stop();
    }
  }
});
