// aiortc, an independent stack in Python (its own ICE and RTP, OpenSSL's DTLS, libsrtp): watches and publishes.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, publish, watch } from '../browser/browsers.mjs';
import { TESTS, serve } from '../browser/server.mjs';
import { VENV_PYTHON, endClients, start } from './clients.mjs';

const SCRIPT = path.join(TESTS, 'interop', 'aiortc_client.py');

let server;
let browser;
before(async () => {
  server = await serve('aiortc');
  browser = await chromium();
});
afterEach(closePages);
afterEach(endClients);
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const codec of ['VP8', 'H264']) {
  test(`chromium publishes ${codec}, aiortc watches and hears`, { timeout: 60_000 }, async () => {
    await publish(browser, server, `to-aiortc-${codec}`, { codec });
    const viewer = start(`aiortc-watch-${codec}`, VENV_PYTHON, [SCRIPT, 'watch', `${server.url}/whep/to-aiortc-${codec}`, 8]);
    const seen = await viewer.result();
    assert.equal(seen.state, 'connected');
    assert.ok(seen.decoded >= 40, `decoded ${seen.decoded} frames`);
    assert.ok(seen.changed >= seen.decoded / 2, `${seen.changed} of ${seen.decoded} frames differ from the one before`);
    assert.ok(seen.brightness > 20, `not black: ${seen.brightness}`);
    assert.ok(seen.audio_frames > 100 && seen.loudness > 0.01, `${seen.audio_frames} audio frames, loudest ${seen.loudness}`);
  });

  test(`aiortc publishes ${codec}, chromium watches and hears`, { timeout: 60_000 }, async () => {
    start(`aiortc-publish-${codec}`, VENV_PYTHON, [SCRIPT, 'publish', `${server.url}/whip/from-aiortc-${codec}`, codec]);
    const viewer = await watch(browser, server, `from-aiortc-${codec}`);
    const seen = await moving(viewer, { ms: 30_000 });
    assert.match(seen.codec, new RegExp(codec, 'i'));
    await heard(viewer);
  });
}
