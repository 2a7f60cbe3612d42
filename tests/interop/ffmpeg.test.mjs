// ffmpeg publishes by WHIP with a token, in both DTLS roles; Chromium watches, and meets it.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, watch } from '../browser/browsers.mjs';
import { meet, seesAndHears, shows } from '../browser/meeting.mjs';
import { KEY, SECRET, configWithKeys, serve, token } from '../browser/server.mjs';
import { VENV_PYTHON, endClients, start } from './clients.mjs';

let ffmpeg;
let server;
let browser;
before(async () => {
  ffmpeg = execFileSync(VENV_PYTHON, ['-c', 'import imageio_ffmpeg as f; print(f.get_ffmpeg_exe())'], { encoding: 'utf8' }).trim();
  server = await serve('ffmpeg', { args: ['--config', configWithKeys('ffmpeg')] });
  browser = await chromium();
});
afterEach(closePages);
afterEach(endClients);
after(async () => {
  await browser?.close();
  await server?.stop();
});

function publish(name, room, flags, { to = server, bearer = token({ key: KEY, secret: SECRET, room, publish: true }) } = {}) {
  return start(name, ffmpeg, [
    '-hide_banner', '-nostdin', '-loglevel', 'verbose',
    '-re', '-f', 'lavfi', '-i', 'testsrc2=size=640x360:rate=25',
    '-re', '-f', 'lavfi', '-i', 'sine=frequency=440:sample_rate=48000',
    '-c:v', 'libx264', '-preset', 'ultrafast', '-tune', 'zerolatency', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p',
    '-b:v', '800k', '-g', '25', '-bf', '0',
    '-c:a', 'libopus', '-ar', '48000', '-ac', '2',
    '-f', 'whip', ...flags,
    '-authorization', bearer,
    `${to.url}/whip/${room}`,
  ]);
}

for (const [role, flags] of [['passive', []], ['active', ['-whip_flags', 'dtls_active']]]) {
  test(`ffmpeg publishes with DTLS ${role}, chromium watches and hears`, { timeout: 60_000 }, async () => {
    const room = `ffmpeg-${role}`;
    const publisher = publish(room, room, flags);
    const viewer = await watch(browser, server, room, { token: token({ key: KEY, secret: SECRET, room, subscribe: true }) });
    const seen = await moving(viewer);
    assert.match(seen.codec, /H264/i);
    assert.equal(seen.width, 640);
    await heard(viewer);
    assert.ok(!publisher.ended, 'ffmpeg still runs');
  });
}

test('ffmpeg is a participant of a meeting', { timeout: 90_000 }, async () => {
  const open = await serve('ffmpeg-meeting');
  try {
    const ada = await meet(browser, open, '/meet/stage', 'Ada');
    publish('ffmpeg-meeting', 'stage', [], { to: open, bearer: token({ room: 'stage', publish: true }) });
    const tiles = await shows(ada, 'there is another tile', (all) => Object.keys(all).length === 2);
    await seesAndHears(ada, 'Ada', Object.keys(tiles).filter((name) => name !== 'Ada (you)'));
  } finally {
    await endClients();
    await open.stop();
  }
});

test('ffmpeg with a token of another room is refused', { timeout: 30_000 }, async () => {
  const other = token({ key: KEY, secret: SECRET, room: 'another', publish: true });
  const publisher = start('ffmpeg-refused', ffmpeg, [
    '-hide_banner', '-nostdin', '-re', '-f', 'lavfi', '-i', 'testsrc2=size=320x180:rate=25',
    '-c:v', 'libx264', '-preset', 'ultrafast', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p', '-bf', '0',
    '-f', 'whip', '-authorization', other, `${server.url}/whip/ffmpeg-refused`,
  ]);
  const { code } = await publisher.exited;
  assert.notEqual(code, 0);
});
