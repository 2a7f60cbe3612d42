// Firefox ESR both ways, against Chromium. It prefers DTLS 1.3, has its own ICE and SRTP code, and no H264 of its own.
//
// Firefox pairs no loopback candidate of the server with the addresses it gathers itself (`media.peerconnection.ice.loopback`
// notwithstanding), so this server listens on the address of the network namespace that tests/run makes, and on no address of the machine.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, firefox, heard, moving, publish, stats, watch } from './browsers.mjs';
import { serve } from './server.mjs';

let server;
let chrome;
let fox;
before(async () => {
  const address = process.env.DISTRIBUTARY_TEST_ADDRESS;
  assert.ok(address, 'no DISTRIBUTARY_TEST_ADDRESS: run this by `tests/run browser firefox`, which makes a network namespace');
  server = await serve('firefox', { args: ['--dev', '--media-bind', address] });
  [chrome, fox] = [await chromium(), await firefox()];
});
afterEach(closePages);
after(async () => {
  await fox?.close();
  await chrome?.close();
  await server?.stop();
});

test('firefox publishes, chromium watches', { timeout: 90_000 }, async () => {
  await publish(fox, server, 'from-firefox', { codec: 'VP8', sound: 'microphone' });
  const viewer = await watch(chrome, server, 'from-firefox');
  await moving(viewer, { ms: 30_000 });
  await heard(viewer);
  assert.match((await stats(viewer)).codec, /VP8/i);
});

test('firefox publishes all its video in RED, with FEC when it loses, chromium watches', { timeout: 90_000 }, async () => {
  const publisher = await publish(fox, server, 'fox-fec', { codec: 'VP8', fec: true, sound: 'microphone' });
  assert.match(await publisher.evaluate(() => window.session.answer), /ulpfec\/90000/);
  await moving(await watch(chrome, server, 'fox-fec'));
});

test('firefox publishes in simulcast, chromium watches', { timeout: 90_000 }, async () => {
  await publish(fox, server, 'fox-simulcast', {
    codec: 'VP8', simulcast: true, sound: 'microphone', width: 1280, height: 720, frameRate: 15,
  });
  const viewer = await watch(chrome, server, 'fox-simulcast');
  await moving(viewer, { ms: 30_000 });
});

test('chromium publishes, firefox watches', { timeout: 90_000 }, async () => {
  await publish(chrome, server, 'to-firefox', { codec: 'VP8' });
  const viewer = await watch(fox, server, 'to-firefox');
  await moving(viewer, { ms: 30_000 });
  await heard(viewer, { analyser: false });
});
