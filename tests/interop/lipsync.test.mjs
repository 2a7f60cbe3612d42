// Lip sync: GStreamer flashes and beeps at the same moments, aiortc says when it saw and heard that in the sender's time, which
// it takes from the sender reports. These are the server's translation of the publisher's: timestamps are rewritten for every
// viewer, from random beginnings, so a report that is left out or wrong for one of the two streams moves sound away from picture.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { TESTS, pause, serve } from '../browser/server.mjs';
import { SYSTEM_PYTHON, VENV_PYTHON, endClients, start } from './clients.mjs';

const script = (name) => path.join(TESTS, 'interop', name);
/** A frame lasts 40 ms. Less is not noticed (ITU-R BT.1359: sound 45 ms early or 125 ms late). */
const APART_MAX = 40;

let server;
before(async () => {
  server = await serve('lipsync');
});
afterEach(endClients);
after(() => server?.stop());

const clap = (name) => start(name, SYSTEM_PYTHON, [script('gstreamer_client.py'), 'clap', `${server.url}/whip/clap`]);

test('lip sync: sound and picture belong together, also when another publisher comes', { timeout: 90_000 }, async () => {
  const first = clap('lipsync-first');
  const viewer = start('lipsync-viewer', VENV_PYTHON, [script('aiortc_client.py'), 'claps', `${server.url}/whep/clap`, 36]);
  await pause(16_000);
  await first.end();
  clap('lipsync-second');
  const seen = await viewer.result();
  for (const [publisher, from, to] of [['the first publisher', 4, 15], ['the second publisher', 25, 36]]) {
    const offsets = seen.pairs.filter(([at]) => at > from && at < to).map(([, offset]) => offset);
    server.note(`${publisher}: flash after beep, ms: ${offsets.join(' ')}`);
    assert.ok(offsets.length >= 6, `${publisher}: ${offsets.length} claps; ${JSON.stringify(seen)}`);
    const apart = Math.max(...offsets.map(Math.abs));
    assert.ok(apart <= APART_MAX, `${publisher}: ${apart} ms apart; ${offsets.join(' ')}`);
  }
});
