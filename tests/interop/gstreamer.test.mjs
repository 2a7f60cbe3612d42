// GStreamer's webrtcbin (libnice, OpenSSL's DTLS 1.2 with an RSA certificate, libsrtp): publishes and watches.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, publish, watch } from '../browser/browsers.mjs';
import { TESTS, serve } from '../browser/server.mjs';
import { SYSTEM_PYTHON, endClients, start } from './clients.mjs';

const SCRIPT = path.join(TESTS, 'interop', 'gstreamer_client.py');

let server;
let browser;
before(async () => {
  server = await serve('gstreamer');
  browser = await chromium();
});
afterEach(closePages);
afterEach(endClients);
after(async () => {
  await browser?.close();
  await server?.stop();
});

test('webrtcbin publishes, chromium watches and hears', { timeout: 60_000 }, async () => {
  start('gstreamer-publish', SYSTEM_PYTHON, [SCRIPT, 'publish', `${server.url}/whip/from-gstreamer`]);
  const viewer = await watch(browser, server, 'from-gstreamer');
  // A white ball on black: much contrast, few pixels that change.
  await moving(viewer, { ms: 30_000, changed: 0.002 });
  await heard(viewer);
});

test('chromium publishes, webrtcbin watches and hears', { timeout: 60_000 }, async () => {
  await publish(browser, server, 'to-gstreamer', { codec: 'VP8' });
  const viewer = start('gstreamer-watch', SYSTEM_PYTHON, [SCRIPT, 'watch', `${server.url}/whep/to-gstreamer`, 8]);
  const seen = await viewer.result();
  assert.ok(seen.decoded >= 40, `decoded ${seen.decoded} frames`);
  assert.ok(seen.changed >= seen.decoded / 2, `${seen.changed} of ${seen.decoded} frames differ from the one before`);
  assert.ok(seen.brightness > 20, `not black: ${seen.brightness}`);
  assert.ok(seen.audio_buffers > 50 && seen.loudness > 0.01, `${seen.audio_buffers} audio buffers, loudest ${seen.loudness}`);
});
