// Recording: what Chromium publishes is in files that ffprobe and ffmpeg read without complaint, also after the server was killed.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, publish, stats, watch } from './browsers.mjs';
import { OUT, pause, serve, until } from './server.mjs';

const folder = mkdtempSync(path.join(tmpdir(), 'distributary-record-'));
const ARGS = ['--dev', '--record-folder', folder, '--record-room', 'rec-*'];

let server;
let browser;
before(async () => {
  server = await serve('record', { args: ARGS });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Files of a room whose names end so. */
function files(room, end) {
  try {
    return readdirSync(path.join(folder, room)).filter((name) => name.endsWith(end)).map((name) => path.join(folder, room, name));
  } catch {
    return [];
  }
}

/** What ffprobe finds, and that decoding all of it complains of nothing. */
function probe(file) {
  const run = (program, ...args) => {
    const { status, stdout, stderr, error } = spawnSync(program, ['-v', 'error', ...args], { encoding: 'utf8', timeout: 60_000 });
    assert.ok(!error && status === 0 && stderr === '', `${program} of ${file}: ${error ?? ''} ${stderr}`);
    return stdout;
  };
  // In the time base of the file: ffmpeg's own choice, a guessed frame rate, makes two pictures that are close one tick, and complains of it.
  run('ffmpeg', '-i', file, '-fps_mode', 'passthrough', '-enc_time_base', '-1', '-f', 'null', '-');
  const found = JSON.parse(run('ffprobe', '-of', 'json', '-show_streams', '-show_format', '-count_packets', '-show_entries',
    'packet=stream_index,pts_time', '-show_packets', file));
  const times = (index) => found.packets.filter((packet) => packet.stream_index === index).map((packet) => Number(packet.pts_time));
  const [video, audio] = ['video', 'audio'].map((type) => {
    const stream = found.streams.find((s) => s.codec_type === type);
    return stream && { codec: stream.codec_name, width: stream.width, times: times(stream.index) };
  });
  return { duration: Number(found.format.duration), video, audio };
}

const events = (room) => files(room, '.jsonl').flatMap((file) => readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line)));

for (const [codec, name, extension] of [['VP8', 'vp8', 'webm'], ['H264', 'h264', 'mkv'], ['VP9', 'vp9', 'webm'], ['AV1', 'av1', 'webm']]) {
  test(`${codec}: what is published is in a file that plays`, { timeout: 90_000 }, async () => {
    const room = `rec-${codec}`;
    const publisher = await publish(browser, server, room, { codec, width: 320, height: 180, frameRate: 15 });
    const viewer = await watch(browser, server, room);
    await moving(viewer);
    const [began, first] = [Date.now(), await stats(publisher)];
    await pause(8_000);
    const [seconds, last] = [(Date.now() - began) / 1000, await stats(publisher)];
    assert.equal(await publisher.evaluate(() => window.client.leave()), 200, 'DELETE of the WHIP session');
    await until('the file has its end', 10_000, () => files(room, extension).length > 0 && files(room, `.part.${extension}`).length === 0);
    const recorded = files(room, extension);
    assert.equal(recorded.length, 1, `${recorded}`);
    const { duration, video, audio } = probe(recorded[0]);
    const seen = JSON.stringify({
      duration, seconds, sent: last.framesSent - first.framesSent, frames: video?.times.length, audio: audio?.times.length, events: events(room),
    });
    server.note(seen);
    assert.deepEqual([video?.codec, video?.width, audio?.codec], [name, 320, 'opus'], seen);
    // It began with the publisher, before the viewer's picture moved.
    assert.ok(duration > seconds - 0.5 && duration < seconds + 40, seen);
    assert.ok(video.times.length >= 0.95 * (last.framesSent - first.framesSent), seen);
    // Sound and picture end together.
    assert.ok(Math.abs(video.times.at(-1) - audio.times.at(-1)) < 0.5, seen);
    const gaps = video.times.slice(1).map((time, i) => time - video.times[i]);
    assert.ok(gaps.every((gap) => gap > 0), `pictures follow each other: ${seen}`);
    assert.equal(events(room).filter(({ event }) => event === 'end').length, 1, seen);
  });
}

test('rooms that match no pattern are not recorded', { timeout: 60_000 }, async () => {
  await publish(browser, server, 'other', { codec: 'VP8', width: 160, height: 90, frameRate: 10 });
  await moving(await watch(browser, server, 'other'));
  await pause(1_000);
  assert.deepEqual(readdirSync(folder).filter((name) => name === 'other'), []);
});

test('killed, it leaves a file that plays and lacks two seconds at most, and names it at the next start', { timeout: 90_000 }, async () => {
  const room = 'rec-killed';
  await publish(browser, server, room, { codec: 'VP8', width: 320, height: 180, frameRate: 15 });
  await moving(await watch(browser, server, room));
  const began = Date.now();
  await pause(6_000);
  server.child.kill('SIGKILL');
  const seconds = (Date.now() - began) / 1000;
  await server.exited;
  const [file, ...more] = files(room, '.part.webm');
  assert.deepEqual(more, []);
  const { video, audio } = probe(file);
  for (const { times } of [video, audio]) assert.ok(times.at(-1) >= seconds - 2, `${times.at(-1)} of ${seconds} s and what was before`);
  server = await serve('record-again', { args: ARGS });
  await until('the log names it', 5_000, () => readFileSync(path.join(OUT, 'record-again.log'), 'utf8').includes(path.basename(file)));
});
