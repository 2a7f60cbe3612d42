// Firefox ESR both ways, against Chromium. It prefers DTLS 1.3, has its own ICE and SRTP code, and no H264 of its own.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, firefox, heard, moving, publish, stats, watch } from './browsers.mjs';
import { serve } from './server.mjs';

let server;
let chrome;
let fox;
before(async () => {
  server = await serve('firefox');
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
