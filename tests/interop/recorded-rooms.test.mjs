// Rooms whose members are LiveKit's clients, recorded: all of them in one file, with what happened there beside it, and a publisher that publishes
// more and less goes on in the same recording. Read by ffprobe and ffmpeg; what is lost between two files would be a hole in the wall clock's time.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, open } from '../browser/browsers.mjs';
import { join, load } from '../browser/sdk.mjs';
import { BINARY, OUT, TESTS, pause, serve, token, until } from '../browser/server.mjs';
import { endClients, start } from './clients.mjs';

/** Seconds without a frame from which on one was lost: cameras here send 20 a second, microphones 50. */
const HOLE = 0.4;
/** Milliseconds: two pages, each with timers, a canvas of 20 pictures a second, an encoder and a jitter of its own. */
const APART_MAX = 150;

const root = mkdtempSync(path.join(tmpdir(), 'distributary-rooms-'));
let server;
let browser;
before(async () => { browser = await chromium(); });
afterEach(closePages);
afterEach(endClients);
afterEach(async () => {
  await server?.stop();
  server = undefined;
});
after(async () => {
  await browser?.close();
  rmSync(root, { recursive: true, force: true });
});

async function recording(name, ...args) {
  const folder = path.join(root, name);
  server = await serve(`recorded-${name}`, { args: ['--dev', '--record-folder', folder, ...args] });
  return folder;
}

/** A page in a room. */
async function member(room, identity) {
  const page = await load(await open(browser, server));
  await join(page, server, token({ room, identity, publish: true, subscribe: false }));
  return page;
}

/** Publishes what is white, and sounds, for the first fifth of each second of the wall clock. */
const clap = (page, { source = 'camera', sound = true } = {}) => page.evaluate(async (source, sound) => {
  const { localParticipant } = window.lk.room;
  const canvas = Object.assign(document.createElement('canvas'), { width: 160, height: 90 });
  const context = canvas.getContext('2d');
  const audio = new AudioContext();
  const [tone, gain, out] = [audio.createOscillator(), audio.createGain(), audio.createMediaStreamDestination()];
  tone.frequency.value = 800;
  tone.connect(gain).connect(out);
  tone.start();
  setInterval(() => {
    const on = Date.now() % 1_000 < 200;
    gain.gain.value = on ? 0.5 : 0;
    context.fillStyle = on ? '#fff' : '#000';
    context.fillRect(0, 0, 160, 90);
  }, 20);
  const [video] = canvas.captureStream(20).getVideoTracks();
  if (sound) await localParticipant.publishTrack(out.stream.getAudioTracks()[0], { source: 'microphone', dtx: false, red: false });
  const { trackSid } = await localParticipant.publishTrack(video, { source, simulcast: false, videoCodec: 'vp8' });
  (window.clapped ??= {})[source] = trackSid;
}, source, sound);

const media = (folder) => readdirSync(folder, { recursive: true }).filter((name) => /\.(webm|ogg|mkv|mp4)$/.test(name)).sort().map((name) => path.join(folder, name));
const events = (file) => readFileSync(file.replace(/(\.part)?\.\w+$/, '.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line));

/** What ffprobe finds in a file: of each stream its type, its title, and when its packets are, in milliseconds of the file. */
function probe(file) {
  const args = ['-v', 'error', '-of', 'json', '-show_streams', '-show_format', '-show_entries', 'packet=stream_index,pts_time', '-show_packets', file];
  const { status, stdout, stderr, error } = spawnSync('ffprobe', args, { encoding: 'utf8', timeout: 30_000, maxBuffer: 1 << 28 });
  assert.ok(!error && status === 0 && stderr === '', `ffprobe of ${file}: ${error ?? stderr}`);
  const { streams, packets, format } = JSON.parse(stdout);
  // While it is being written it does not say how long it is.
  const last = Math.max(...packets.map(({ pts_time: time }) => Number(time)));
  if (!file.includes('.part.')) assert.ok(Math.abs(format.duration - last) < 0.1, `${file}: ${format.duration} s, and its last packet at ${last} s`);
  return streams.map(({ index, codec_type: type, codec_name: codec, tags }) => ({
    type, codec, title: tags?.title ?? tags?.TITLE, times: packets.filter((packet) => packet.stream_index === index).map(({ pts_time: time }) => 1_000 * time),
  }));
}

/** The seconds of the wall clock at which something came of each track, by its sid, over all files; ffmpeg decodes each without complaint. */
function together(files) {
  const times = {};
  for (const file of files) {
    const { status, stderr } = spawnSync('ffmpeg', ['-v', 'error', '-i', file, '-map', '0', '-fps_mode', 'passthrough', '-enc_time_base', '-1', '-f', 'null', '-'], { encoding: 'utf8' });
    assert.deepEqual([status, stderr], [0, ''], file);
    const [{ unix_ms: began, tracks }] = events(file);
    const streams = probe(file);
    assert.deepEqual(streams.map(({ title }) => title), tracks.map(({ identity, source }) => `${identity} ${source}`), file);
    tracks.forEach(({ sid }, index) => (times[sid] ??= []).push(...streams[index].times.map((ms) => (began + ms) / 1_000)));
  }
  return times;
}

const holes = (times) => times.slice(1).map((time, i) => time - times[i]).filter((step) => step > HOLE || step <= 0);

/** Milliseconds of the file at which each flash of a video stream begins. */
function flashes(file, video) {
  const filter = 'scale=1:1:flags=area,format=gray,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-';
  const args = ['-v', 'error', '-i', file, '-map', `0:v:${video}`, '-fps_mode', 'passthrough', '-enc_time_base', '-1', '-vf', filter, '-f', 'null', '-'];
  const { status, stdout, stderr } = spawnSync('ffmpeg', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  assert.equal(status, 0, stderr);
  const shown = [...stdout.matchAll(/pts_time:(\S+)\s+lavfi\.signalstats\.YAVG=(\S+)/g)].map(([, time, luma]) => [1_000 * time, luma > 128]);
  return shown.filter(([, on], i) => on && i > 0 && !shown[i - 1][1]).map(([time]) => time);
}

test('a room is in one file: who comes later too, each named, at its time, and what happened beside it', { timeout: 180_000 }, async () => {
  const folder = await recording('room', '--record-files', 'room');
  const ada = await member('room', 'ada');
  await clap(ada);
  await pause(4_000);
  const bob = await member('room', 'bob');
  await clap(bob);
  await pause(7_000);
  await ada.evaluate(() => window.lk.room.localParticipant.setMicrophoneEnabled(false));
  await pause(1_500);
  await ada.evaluate(() => window.lk.room.localParticipant.setMicrophoneEnabled(true));
  await pause(1_500);
  await bob.evaluate(() => window.lk.room.disconnect());
  await pause(2_000);
  await ada.evaluate(() => window.lk.room.disconnect());
  await until('the last file has its end', 10_000, () => media(folder).length > 0 && !media(folder).some((file) => file.includes('.part.')));
  const files = media(folder);
  const told = files.map(events);
  console.log(files.map((file, i) => `${path.basename(file)}: ${told[i][0].tracks.map(({ identity, source }) => `${identity} ${source}`)}`).join('\n'));
  assert.ok(files.every((file) => /\/room\/\w+-\w+-room-\d+\.\w+$/.test(file)), `${files}`);

  // The last one has all four, and each of them is video or sound of whom its title says.
  const last = files.at(-1);
  const streams = probe(last);
  assert.deepEqual(streams.map(({ codec, title }) => `${codec} ${title}`).sort(), ['opus ada microphone', 'opus bob microphone', 'vp8 ada camera', 'vp8 bob camera']);
  // Nothing is lost from one to the next, and who leaves has no more frames.
  const times = together(files);
  const all = Object.fromEntries(told.flatMap(([{ tracks }]) => tracks.map(({ sid, identity, source }) => [sid, `${identity} ${source}`])));
  assert.equal(Object.keys(all).length, 4, JSON.stringify(all));
  for (const [sid, name] of Object.entries(all)) {
    if (name === 'ada microphone') continue; // which was silent for a while
    assert.deepEqual(holes(times[sid]), [], `${name}: ${times[sid].length} packets`);
  }
  const end = (name) => times[Object.keys(all).find((sid) => all[sid] === name)].at(-1);
  const stayed = end('ada camera') - end('bob camera');
  assert.ok(stayed > 1.5 && stayed < 3.5, `${stayed} s`);
  // Both flashed by one clock.
  const flash = Object.fromEntries(streams.filter(({ type }) => type === 'video').map(({ title }, video) => [title, flashes(last, video)]));
  const [first] = flash['ada camera'];
  const apart = flash['bob camera'].filter((at) => at > first - 500).map((at) => flash['ada camera'].reduce((best, other) => (Math.abs(other - at) < Math.abs(best) ? other - at : best), Infinity));
  console.log(`ada's flash after bob's, ms: ${apart.map((ms) => ms.toFixed(0)).join(' ')}`);
  assert.ok(apart.length >= 6 && apart.every((ms) => Math.abs(ms) <= APART_MAX), `${apart}`);

  // What happened, in time.
  const said = told.flat();
  const at = (event, fits = () => true) => said.filter((line) => line.event === event && fits(line));
  assert.ok(at('present', ({ identities }) => identities.includes('ada')).length > 0);
  assert.equal(at('joined', ({ identity }) => identity === 'bob').length, 1);
  assert.equal(at('left', ({ identity }) => identity === 'bob').length, 1);
  assert.deepEqual(['muted', 'unmuted'].map((event) => at(event).map(({ identity, source }) => `${identity} ${source}`)), [['ada microphone'], ['ada microphone']]);
  const speakers = at('speakers', (line) => line.speakers.some(({ identity, level }) => identity === 'bob' && level > -60 && level <= 0));
  assert.ok(speakers.length > 0, JSON.stringify(at('speakers')));
  assert.ok(at('speakers').length < 60, 'only changes are told');
  assert.ok(said.every(({ time }) => Math.abs(Date.parse(time) - Date.now()) < 120_000), 'by the wall clock');
  for (const lines of told.slice(0, -1)) assert.match(lines.at(-1).why, /a track has come that it lacks/);
  assert.equal(told.at(-1).at(-1).why, undefined);
});

test('killed, the file of a room plays, and is made whole at the next start', { timeout: 120_000 }, async () => {
  const folder = await recording('killed', '--record-files', 'room');
  const ada = await member('killed', 'ada');
  await clap(ada);
  const node = token({ room: 'killed', identity: 'node', publish: true, subscribe: false });
  start('recorded-node', process.execPath, [path.join(TESTS, 'interop', 'livekit_client.mjs'), server.url.replace('http', 'ws'), node, 60]);
  const [file] = await (async () => {
    let found = [];
    await until('all four are in a file', 30_000, () => {
      found = media(folder).filter((name) => name.includes('.part.') && events(name)[0].tracks.length === 4);
      return found.length === 1;
    }, () => media(folder).join(' '));
    return found;
  })();
  await pause(5_000);
  server.child.kill('SIGKILL');
  const killed = Date.now();
  await server.exited;
  const [{ unix_ms: began }] = events(file);
  for (const { title, times } of probe(file)) assert.ok(times.at(-1) >= killed - began - 2_000, `${title}: to ${times.at(-1)} of ${killed - began} ms`);
  server = await serve('recorded-again', { args: ['--dev', '--record-folder', folder] });
  const log = () => readFileSync(path.join(OUT, 'recorded-again.log'), 'utf8');
  await until('it is whole', 10_000, () => media(folder).includes(file.replace('.part.', '.')), log);
  const whole = file.replace('.part.', '.');
  assert.deepEqual(probe(whole).map(({ title }) => title).sort(), ['ada camera', 'ada microphone', 'node camera', 'node microphone']);
  assert.equal(events(whole).at(-1).event, 'completed');
});

test('who publishes more and less goes on in the same recording, without a hole', { timeout: 120_000 }, async () => {
  const folder = await recording('more');
  const ada = await member('more', 'ada');
  await clap(ada);
  await pause(3_000);
  await clap(ada, { source: 'screen_share', sound: false });
  await pause(3_000);
  await ada.evaluate(async () => {
    const { localParticipant } = window.lk.room;
    const shared = [...localParticipant.videoTrackPublications.values()].find(({ source }) => source === 'screen_share');
    await localParticipant.unpublishTrack(shared.track);
  });
  await pause(3_000);
  await ada.evaluate(() => window.lk.room.disconnect());
  await until('the last file has its end', 10_000, () => media(folder).length > 0 && !media(folder).some((file) => file.includes('.part.')));
  const files = media(folder);
  const lines = files.map(events);
  console.log(files.map((file, i) => `${path.basename(file)}: ${lines[i][0].tracks.map(({ source }) => source)}, ${lines[i].at(-1).why}`).join('\n'));
  // One recording, of one session, in parts.
  assert.deepEqual(lines.map(([{ part }]) => part), files.map((_, i) => i + 1));
  assert.equal(new Set(lines.map(([{ session }]) => session)).size, 1);
  const times = together(files);
  const of = (source) => times[lines.flatMap(([{ tracks }]) => tracks).find((track) => track.source === source).sid];
  assert.deepEqual([holes(of('camera')), holes(of('microphone')), holes(of('screen_share'))], [[], [], []]);
  assert.ok(of('camera').at(-1) - of('camera')[0] > 8.5 && of('screen_share').length > 40, `${of('screen_share').length} pictures of the screen`);
  assert.equal(lines.at(-1)[0].tracks.length, 3, 'a track that ends needs no other file');
  assert.deepEqual(lines.flat().filter(({ event }) => event === 'unpublished').map(({ source }) => source)[0], 'screen_share');
});

for (const way of ['room', 'participant']) {
  test(`a pause is cut out of all that several publish, and they stay together: files by ${way}`, { timeout: 120_000 }, async () => {
    const folder = await recording(`paused-${way}`, '--record-files', way);
    const patch = async (paused) => {
      const answer = await fetch(`${server.url}/api/v1/recordings/together`, { method: 'PATCH', body: JSON.stringify({ paused }), headers: { 'Content-Type': 'application/json' } });
      assert.equal(answer.status, 204, await answer.text());
    };
    const members = [];
    for (const identity of ['ada', 'bob']) {
      members.push(await member('together', identity));
      await clap(members.at(-1));
    }
    const open = () => media(folder).filter((name) => name.includes('.part.'));
    await until('all four are recorded', 20_000, () => open().flatMap((name) => events(name)[0].tracks).length === 4, () => media(folder).join(' '));
    await pause(4_000);
    await patch(true);
    await pause(3_000);
    await patch(false);
    await pause(5_000);
    for (const page of members) await page.evaluate(() => window.lk.room.disconnect());
    await until('the last file has its end', 10_000, () => media(folder).length > 0 && open().length === 0);
    const files = media(folder).filter((file) => events(file).some(({ event }) => event === 'resumed'));
    assert.equal(files.length, way === 'room' ? 1 : 2, media(folder).join(' '));
    const claps = [];
    for (const file of files) {
      const lines = events(file);
      const at = (event) => lines.find((line) => line.event === event);
      const [paused, resumed, end] = ['paused', 'resumed', 'end'].map(at);
      const cut = Date.parse(resumed.time) - Date.parse(paused.time);
      assert.ok(cut > 2_500 && cut < 4_000, `${cut} ms`);
      const streams = probe(file);
      assert.equal(streams.length, way === 'room' ? 4 : 2);
      for (const { title, times } of streams) {
        assert.deepEqual(holes(times.map((ms) => ms / 1_000)), [], `${title}: nothing is missing but the pause`);
        assert.ok(times.some((ms) => ms < paused.at_ms - 2_000) && times.some((ms) => ms > paused.at_ms + 3_000), `${title}: before and after it`);
        const over = Date.parse(end.time) - lines[0].unix_ms - cut - times.at(-1);
        assert.ok(Math.abs(over) < 1_500, `${title}: it is as much shorter as the pause was long, ${over} ms`);
      }
      streams.filter(({ type }) => type === 'video').forEach(({ title }, video) => {
        // By what the wall clock said, once the pause is put back in.
        claps.push([title, flashes(file, video).map((ms) => lines[0].unix_ms + ms + (ms > paused.at_ms ? cut : 0))]);
      });
    }
    assert.deepEqual(claps.map(([title]) => title).sort(), ['ada camera', 'bob camera']);
    const [[, one], [, other]] = claps;
    const apart = one.filter((at) => at > other[0] - 500 && at < other.at(-1) + 500).map((at) => other.reduce((best, of) => (Math.abs(of - at) < Math.abs(best) ? of - at : best), Infinity));
    console.log(`apart, ms: ${apart.map((ms) => ms.toFixed(0)).join(' ')}`);
    // One may be cut in two by the pause.
    assert.ok(apart.length >= 7 && apart.filter((ms) => Math.abs(ms) > APART_MAX).length <= 1, `${apart}`);
  });
}

test('what is no way to make files is refused with the ways there are', { timeout: 60_000 }, async () => {
  await recording('refused');
  const record = async (body) => {
    const answer = await fetch(`${server.url}/api/v1/recordings`, { method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } });
    return [answer.status, (await answer.text()).trim()];
  };
  assert.deepEqual(await record({ room: 'x', files: 'rooom' }), [400, 'files is "rooom"; it wants to be one of participant, track, room.']);
  for (const name of ['', 'a/b', '..', 'EG_x', 'x'.repeat(33)]) {
    const [status, text] = await record({ room: 'x', name });
    assert.ok(status === 400 && text.startsWith(`name is ${JSON.stringify(name)}; it wants to be 1 to 32 letters, digits and _`), text);
  }
  const run = (...args) => spawnSync(BINARY, args, { encoding: 'utf8', timeout: 10_000 });
  const asked = run('record', '--server', server.url, 'x', '--files', 'rooom');
  assert.deepEqual([asked.status, /400: files is "rooom"; it wants to be one of participant, track, room/.test(asked.stderr)], [1, true], asked.stderr);
  const config = path.join(root, 'rooom.toml');
  writeFileSync(config, '[record]\nfolder = "/tmp"\nfiles = "rooom"\n');
  const started = run('serve', '--dev', '--config', config);
  assert.notEqual(started.status, 0);
  assert.match(started.stderr, /record\.files.*"rooom".*participant, track(,| or) room/s, started.stderr);
  // And what is one is taken.
  const cli = (...args) => run('record', '--server', server.url, ...args);
  assert.match(cli('y', '--files', 'room').stdout, /"y" will be recorded when somebody publishes/);
  assert.match(cli('y', '--name', 'copy', '--files', 'track').stdout, /"y" will be recorded when somebody publishes/);
  assert.match(cli('y', '--name', 'copy', '--stop').stdout, /"y" is recorded no more/);
  assert.match(cli('y', '--name', 'copy', '--stop').stderr, /404: Room "y" is not being recorded/);
  assert.match(cli('y', '--stop').stdout, /"y" is recorded no more/);
});
