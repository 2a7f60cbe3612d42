// Recording: what Chromium publishes is in files that ffprobe and ffmpeg read without complaint, also after the server was killed.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, moving, publish, stats, watch } from './browsers.mjs';
import { together } from './claps.mjs';
import { Relay } from './relay.mjs';
import { BINARY, OUT, pause, serve, until } from './server.mjs';

const folder = mkdtempSync(path.join(tmpdir(), 'distributary-record-'));
/** Each server wants a folder of its own. */
const args = (format) => ['--dev', '--record-folder', path.join(folder, format), '--record-room', 'rec-*', '--record-format', format];

let webmServer;
let mp4Server;
let browser;
before(async () => {
  webmServer = await serve('record', { args: args('webm') });
  mp4Server = await serve('record-mp4', { args: args('mp4') });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await webmServer?.stop();
  await mp4Server?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Files of a room whose names end so. */
function files(room, end) {
  return readdirSync(folder, { recursive: true })
    .filter((name) => name.split(path.sep)[1] === room && name.endsWith(end)).map((name) => path.join(folder, name));
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

/** Of each codec; RECORD_SECONDS=30 for longer. */
const SECONDS = Number(process.env.RECORD_SECONDS ?? 9);
const SIZES = [[320, 180], [480, 270], [240, 136]];

/** Plays a recording from its link, and says what is seen of it. */
async function play(server, file, room, name) {
  const link = `/api/v1/recordings/${room}/${path.basename(file)}`;
  const page = await browser.newPage();
  await page.goto(`${server.url}/healthz`);
  await page.setContent(`<video src="${server.url}${link}" autoplay muted controls></video>`);
  const look = () => page.evaluate(() => {
    const { videoWidth, currentTime, duration, error, readyState } = document.querySelector('video');
    return { videoWidth, currentTime, duration, readyState, error: error?.message };
  });
  let seen;
  await until(`${link} plays`, 20_000, async () => {
    seen = await look();
    return seen.currentTime > 2 || seen.error;
  }, () => JSON.stringify(seen));
  await page.screenshot({ path: path.join(OUT, `${name}.png`) });
  await page.close();
  return seen;
}

for (const [codec, name, extension] of [
  ['VP8', 'vp8', 'webm'], ['H264', 'h264', 'mkv'], ['VP9', 'vp9', 'webm'], ['AV1', 'av1', 'webm'],
  ['H264', 'h264', 'mp4'], ['VP9', 'vp9', 'mp4'], ['AV1', 'av1', 'mp4'],
]) {
  test(`${codec}: what is published in changing sizes is in a file that plays (${extension})`, { timeout: 90_000 + 2_000 * SECONDS }, async () => {
    const room = `rec-${codec}-${extension}`;
    const server = extension === 'mp4' ? mp4Server : webmServer;
    const [[width, height], ...sizes] = SIZES;
    // The viewer is there before the publisher, and sees all of it.
    const viewer = await watch(browser, server, room);
    await viewer.evaluate(() => {
      window.shown = {};
      const receiver = window.session.pc.getReceivers().find(({ track }) => track.kind === 'video');
      setInterval(() => {
        const [source] = receiver.getSynchronizationSources();
        window.shown.first ??= source?.rtpTimestamp;
        window.shown.last = source?.rtpTimestamp ?? window.shown.last;
      }, 20);
    });
    const publisher = await publish(browser, server, room, { codec, width, height, frameRate: 15, clap: true });
    await moving(viewer);
    for (const size of sizes) {
      await pause((SECONDS * 1_000) / SIZES.length);
      await publisher.evaluate((to) => window.session.resize(...to), size);
      await until(`the viewer sees ${size}`, 15_000, async () => (await stats(viewer)).frameWidth === size[0]);
    }
    await pause((SECONDS * 1_000) / SIZES.length);
    assert.equal(await publisher.evaluate(() => window.client.leave()), 200, 'DELETE of the WHIP session');
    await until('the file has its end', 10_000, () => files(room, `.${extension}`).length > 0 && files(room, `.part.${extension}`).length === 0);
    const recorded = files(room, `.${extension}`);
    assert.equal(recorded.length, 1, `${recorded}`);
    const { duration, video, audio } = probe(recorded[0]);
    // What the viewer leaves out of what it received is its own affair: sound that comes in fits, as Web Audio's does here, has it keep pictures
    // back, and throw some away when they change their size.
    let taken;
    const decoded = () => taken.framesDecoded + taken.framesDropped;
    await until('the viewer has decoded what it received', 5_000, async () => (taken = await stats(viewer)) && decoded() >= taken.framesReceived,
      () => JSON.stringify(taken));
    const { first, last } = await viewer.evaluate(() => window.shown);
    const drops = (await server.get('/metrics')).split('\n').filter((line) => /^distributary_dropped_packets_total.* [1-9]/.test(line));
    const shown = ((last - first + 2 ** 32) % 2 ** 32) / 90_000;
    const apart = [video.times[0] - audio?.times[0], video.times.at(-1) - audio?.times.at(-1)];
    const seen = JSON.stringify({
      codec, extension, duration, shown, decoded: decoded(), frames: video?.times.length, audio: audio?.times.length, apart, drops, events: events(room),
    });
    console.log(seen);
    assert.deepEqual([video?.codec, video?.width, audio?.codec], [name, 320, 'opus'], seen);
    assert.ok(Math.abs(video.times.at(-1) - video.times[0] - shown) <= 0.2, `as long as what the viewer was shown: ${seen}`);
    assert.ok(Math.abs(duration - video.times.at(-1)) <= 0.2, seen);
    assert.ok(Math.abs(video.times.length - decoded()) <= Math.max(3, 0.01 * decoded()), `as many frames as the viewer decoded: ${seen}`);
    const gaps = video.times.slice(1).map((time, i) => time - video.times[i]);
    assert.ok(gaps.every((gap) => gap > 0), `pictures follow each other: ${seen}`);
    // Sound and picture begin and end together.
    assert.ok(apart.every((seconds) => Math.abs(seconds) < 0.5), seen);
    assert.equal(events(room).filter(({ event }) => event === 'end').length, 1, seen);
    together(`${codec} (${extension})`, recorded[0], SECONDS, { tardy: 1 });
    const played = await play(server, recorded[0], room, `record-${codec}-${extension}`);
    assert.ok(!played.error && played.videoWidth > 0, JSON.stringify(played));
    assert.ok(Math.abs(played.duration - duration) < 0.1, `${played.duration} s`);
  });
}

/** The codecs that are recorded through loss: with RECORD_SECONDS=30 all. */
const LOSSY = SECONDS < 30 ? ['VP8'] : ['VP8', 'H264', 'VP9', 'AV1'];
for (const codec of LOSSY) {
  test(`${codec}: through 5 % loss gaps are only where nothing came again, and sound and picture stay together`, { timeout: 90_000 + 2_000 * SECONDS }, async () => {
    const room = `rec-lossy-${codec}`;
    const server = webmServer;
    const relay = await Relay.start(server.mediaPort, { seed: 7, delay: 20 });
    try {
      const publisher = await publish(browser, server, room, { codec, width: 320, height: 180, frameRate: 15, clap: true, mediaPort: relay.port });
      await moving(await watch(browser, server, room));
      const counters = { lost: 'distributary_lost_upstream_packets_total', recovered: 'distributary_recovered_packets_total' };
      const before = await server.metrics(Object.values(counters));
      relay.loss = 0.05;
      await pause(SECONDS * 1_000);
      relay.loss = 0;
      await pause(1_000);
      const now = await server.metrics(Object.values(counters));
      const [lost, recovered] = Object.values(counters).map((name) => now[name] - before[name]);
      await publisher.evaluate(() => window.client.leave());
      const ends = ['webm', 'mkv'];
      await until('the file has its end', 10_000, () => ends.some((end) => files(room, `.${end}`).length > 0 && files(room, `.part.${end}`).length === 0));
      const recorded = ends.flatMap((end) => files(room, `.${end}`));
      assert.equal(recorded.length, 1, `${recorded}`);
      const { video, audio } = probe(recorded[0]);
      const gone = (kind) => events(room).filter(({ event, kind: of }) => event === 'gap' && of === kind).reduce((sum, { packets }) => sum + packets, 0);
      const seen = JSON.stringify({
        codec, lostOnTheWay: relay.lost.up, lost, recovered, gone: { video: gone('video'), audio: gone('audio') }, frames: video.times.length, sounds: audio.times.length,
      });
      console.log(seen);
      assert.ok(relay.lost.up > SECONDS && recovered > 0, seen);
      assert.ok(gone('video') <= lost, `nothing is missing that came again: ${seen}`);
      assert.ok(video.times.length >= 0.8 * 15 * SECONDS, seen);
      const apart = together(`${codec}, 5 % loss`, recorded[0], SECONDS, { lost: Math.ceil(SECONDS / 5), tardy: 1 });
      const mean = (part) => part.reduce((sum, ms) => sum + ms, 0) / part.length;
      const third = Math.ceil(apart.length / 3);
      assert.ok(Math.abs(mean(apart.slice(0, third)) - mean(apart.slice(-third))) < 20, `they do not drift: ${apart}`);
    } finally {
      relay.stop();
    }
  });
}

test('rooms that match no pattern are not recorded', { timeout: 60_000 }, async () => {
  const server = webmServer;
  await publish(browser, server, 'other', { codec: 'VP8', width: 160, height: 90, frameRate: 10 });
  await moving(await watch(browser, server, 'other'));
  await pause(1_000);
  assert.deepEqual(files('other', ''), []);
});

test('asked for by the API a room is recorded, listed, and played by Chromium from its link', { timeout: 120_000 }, async () => {
  const server = webmServer;
  const api = async (method, rest = '', init = {}) => {
    const answer = await fetch(`${server.url}/api/v1/recordings${rest}`, { method, ...init });
    const text = await answer.text();
    return [answer.status, answer.headers.get('content-type') === 'application/json' ? JSON.parse(text) : text];
  };
  const record = (body) => api('POST', '', { body, headers: { 'Content-Type': 'application/json' } });
  const listed = async () => (await api('GET', '?room=asked%2Ffor'))[1].recordings;
  assert.deepEqual(await record('{"room":"asked/for"}'), [200, { room: 'asked/for', publishing: false }]);
  await publish(browser, server, 'asked%2Ffor', { codec: 'VP8', width: 320, height: 180, frameRate: 15 });
  await moving(await watch(browser, server, 'asked%2Ffor'));
  await until('it is being recorded', 10_000, async () => (await listed())[0]?.state === 'recording');
  assert.deepEqual(await record('{"room":"asked/for"}'), [200, { room: 'asked/for', publishing: true }]);
  const { rooms } = await (await fetch(`${server.url}/api/v1/rooms`)).json();
  assert.equal(rooms.find(({ room }) => room === 'asked/for')?.recording, true);
  await pause(2_000);
  // The command, as an operator would type it.
  const cli = (...args) => spawnSync(BINARY, ['record', '--server', server.url, ...args], { encoding: 'utf8', timeout: 20_000 });
  assert.match(cli().stdout, /^recording +\S+ +[\d.]+ s +[\d.]+ MiB .*"asked\/for" \/api\/v1\/recordings\/asked%252ffor\//m);
  assert.match(cli('--pause', 'asked/for').stdout, /"asked\/for" pauses/);
  await until('it pauses', 5_000, async () => (await listed())[0]?.state === 'paused');
  await pause(3_000);
  assert.match(cli('--resume', 'asked/for').stdout, /recorded again/);
  await until('it goes on', 5_000, async () => (await listed())[0]?.state === 'recording');
  await pause(2_500);
  assert.match(cli('--stop', 'asked/for').stdout, /"asked\/for" is recorded no more/);
  const nothing = cli('--stop', 'asked/for');
  assert.deepEqual([nothing.status, /404: Room "asked\/for" is not being recorded/.test(nothing.stderr)], [1, true], nothing.stderr);
  await until('the file has its end', 10_000, async () => (await listed())[0]?.state === 'ended');
  const [{ url, events_url, seconds, bytes, gaps }, ...more] = await listed();
  assert.deepEqual([more, gaps], [[], 0]);
  assert.ok(seconds > 4 && seconds < 30 && bytes > 20_000, `${seconds} s, ${bytes} bytes`);
  const part = await fetch(`${server.url}${url}`, { headers: { Range: 'bytes=0-3' } });
  assert.deepEqual([part.status, part.headers.get('content-type'), Buffer.from(await part.arrayBuffer()).toString('hex')], [206, 'video/webm', '1a45dfa3']);
  assert.match((await api('GET', events_url.slice('/api/v1/recordings'.length)))[1], /"event":"start"/);
  const page = await browser.newPage();
  await page.goto(`${server.url}${url}`);
  const playing = () => page.evaluate(() => {
    const video = document.querySelector('video');
    return video && [video.videoWidth, video.duration, video.currentTime, video.error?.message];
  });
  await until('it plays', 10_000, async () => (await playing())?.[2] > 1, playing);
  const [width, duration, , error] = await playing();
  assert.deepEqual([width, error ?? undefined], [320, undefined]);
  assert.ok(Math.abs(duration - seconds) < 0.1, `${duration} and ${seconds} s`);
  await page.screenshot({ path: path.join(OUT, 'record-played.png') });
  await page.close();
  // What it answers to mistakes.
  const refused = [
    [await record('{"rom":"x"}'), 400, /The body wants to be/],
    [await record('{"room":""}'), 400, /The room name is empty/],
    [await record('{"room":"x","files":"all"}'), 400, /files is "all"; it wants to be one of participant, track/],
    [await api('PATCH', '/nobody', { body: '{"paused":true}' }), 404, /is not being recorded/],
    [await api('PATCH', '/nobody', { body: '{"paused":1}' }), 400, /The body wants to be/],
    [await api('DELETE', '/nobody'), 404, /is not being recorded/],
    [await api('GET', '/asked%252ffor/none.webm'), 404, /No such recording/],
    [await api('GET', '/%2e%2e/passwd.webm'), 404, /Nothing is at/],
    [await api('GET', '/asked%252ffor/..%2f..%2f..%2fetc%2fpasswd'), 404, /No such recording/],
  ];
  for (const [[status, text], wanted, says] of refused) assert.ok(status === wanted && says.test(text), `${status} ${text}`);
});

test('killed, it leaves a file that plays and lacks two seconds at most, and is made whole at the next start', { timeout: 90_000 }, async () => {
  const server = webmServer;
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
  webmServer = await serve('record-again', { args: args('webm') });
  await until('the log names it', 5_000, () => readFileSync(path.join(OUT, 'record-again.log'), 'utf8').includes(path.basename(file)));
  await until('it has its name', 5_000, () => files(room, '.webm').length === 1 && files(room, '.part.webm').length === 0);
  const whole = probe(files(room, '.webm')[0]);
  assert.deepEqual([whole.video.times, whole.audio.times], [video.times, audio.times]);
  assert.ok(Math.abs(whole.duration - Math.max(video.times.at(-1), audio.times.at(-1))) < 0.1, `${whole.duration} s`);
});
