// Recordings of other people's publishers. Sound and picture of a clapperboard belong together; and when things go wrong, the server
// killed at any moment or the disk full, ffprobe reads what is there (there the load generator publishes).

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, test } from 'node:test';
import { together } from '../browser/claps.mjs';
import { OUT, TESTS, pause, serve, until } from '../browser/server.mjs';
import { SYSTEM_PYTHON, VENV_PYTHON, endClients, start } from './clients.mjs';

const LOADGEN = path.resolve(TESTS, '..', 'target', 'release', 'loadgen');
/** What a file that was being written may lack at its end, in milliseconds. */
const LACKS_MAX = 2_000;

/** RECORD_SECONDS=30 for longer. */
const CLAP_SECONDS = Number(process.env.RECORD_SECONDS ?? 12);
const ffmpeg = () => execFileSync(VENV_PYTHON, ['-c', 'import imageio_ffmpeg as f; print(f.get_ffmpeg_exe())'], { encoding: 'utf8' }).trim();

const root = mkdtempSync(path.join(tmpdir(), 'distributary-recordings-'));
let server;
afterEach(endClients);
afterEach(async () => {
  await server?.stop();
  server = undefined;
});
after(() => rmSync(root, { recursive: true, force: true }));

/** Publishers in rooms of their own, with a viewer each. */
const load = (name, room, rooms, seconds, bitrate) => start(name, LOADGEN, [
  'run', '--url', server.url, '--server-pid', server.child.pid, '--room', room, '--rooms', rooms, '--viewers', rooms, '--sample', 1,
  '--seconds', seconds, '--settle', 0, '--bitrate', bitrate,
]);

/** Files of all rooms below a folder, by the end of their names. */
const files = (folder, end) => readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(end)).map((name) => path.join(folder, name));

/** Milliseconds at which the last packet of each stream begins, by the streams' types. ffprobe has to open and read all of it. */
function ends(file) {
  const args = ['-v', 'error', '-of', 'json', '-show_entries', 'packet=codec_type,pts_time', file];
  const { status, stdout, stderr, error } = spawnSync('ffprobe', args, { encoding: 'utf8', timeout: 30_000, maxBuffer: 1 << 28 });
  assert.ok(!error && status === 0, `ffprobe of ${file}: ${error ?? stderr}`);
  const last = {};
  for (const { codec_type: type, pts_time: time } of JSON.parse(stdout).packets) last[type] = Math.max(last[type] ?? 0, Number(time) * 1_000);
  return last;
}

/** The wall clock at the beginning of a recording, as its sidecar tells it. */
function began(file) {
  const sidecar = file.replace(/(\.part)?\.\w+$/, '.jsonl');
  const first = JSON.parse(readFileSync(sidecar, 'utf8').split('\n')[0]);
  assert.equal(first.event, 'start');
  return Date.parse(first.time);
}

for (const [what, format, publish] of [
  ['GStreamer, VP8', 'webm', (room) => start(`recordings-${room}`, SYSTEM_PYTHON, [path.join(TESTS, 'interop', 'gstreamer_client.py'), 'clap', `${server.url}/whip/${room}`])],
  ['ffmpeg, H264', 'mp4', (room) => start(`recordings-${room}`, ffmpeg(), [
    '-hide_banner', '-nostdin', '-re', '-f', 'lavfi', '-i', "color=black:size=160x90:rate=25,drawbox=color=white:t=fill:enable='lt(mod(t,1),0.12)'",
    '-re', '-f', 'lavfi', '-i', "aevalsrc='0.3*sin(2*PI*1000*t)*lt(mod(t,1),0.12)':sample_rate=48000",
    '-c:v', 'libx264', '-preset', 'ultrafast', '-tune', 'zerolatency', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p', '-g', '50', '-bf', '0',
    '-c:a', 'libopus', '-ar', '48000', '-ac', '2', '-f', 'whip', `${server.url}/whip/${room}`,
  ])],
]) {
  test(`flash and beep of ${what} are recorded together`, { timeout: 60_000 + 2_000 * CLAP_SECONDS }, async () => {
    const folder = path.join(root, `claps-${format}`);
    server = await serve(`recordings-claps-${format}`, { args: ['--dev', '--record-folder', folder, '--record-format', format] });
    const publisher = publish(`clap-${format}`);
    await until('it is being recorded', 20_000, () => files(root, `.part.${format}`).length === 1);
    await pause(CLAP_SECONDS * 1_000);
    await publisher.end();
    await server.stop();
    const [file, ...more] = files(folder, `.${format}`);
    assert.deepEqual(more, []);
    together(what, file, CLAP_SECONDS);
  });
}

test('fifty recordings killed at random moments: each opens, lacks two seconds at most, and is made whole at the next start', { timeout: 180_000 }, async () => {
  const lacks = [];
  for (let round = 0; round < 5; round += 1) {
    const folder = path.join(root, `killed-${round}`);
    server = await serve('recordings-killed', { args: ['--dev', '--record-folder', folder] });
    load('recordings-load-a', `a${round}`, 5, 60, 400_000);
    await pause(1_500 * Math.random());
    load('recordings-load-b', `b${round}`, 5, 60, 400_000);
    await until('ten are being recorded', 20_000, () => files(root, '.part.webm').filter((name) => name.startsWith(folder)).length === 10);
    await pause(2_500 + 2_000 * Math.random());
    const killed = Date.now();
    server.child.kill('SIGKILL');
    await server.exited;
    await endClients();
    const left = files(folder, '.part.webm');
    assert.equal(left.length, 10, `${left}`);
    for (const file of left) {
      const { video, audio } = ends(file);
      const length = killed - began(file);
      lacks.push(length - video, length - audio);
      for (const [kind, end] of Object.entries({ video, audio })) {
        assert.ok(end >= length - LACKS_MAX, `${file}: ${kind} to ${end} ms of ${length}`);
      }
    }
    server = await serve('recordings-again', { args: ['--dev', '--record-folder', folder] });
    const log = () => readFileSync(path.join(OUT, 'recordings-again.log'), 'utf8');
    await until('all are named at the next start', 5_000, () => left.every((file) => log().includes(path.basename(file))), log);
    await until('all are whole', 10_000, () => files(folder, '.part.webm').length === 0 && files(folder, '.webm').length === 10, log);
    for (const file of left) {
      const { video, audio } = ends(file.replace('.part.', '.'));
      const length = 1_000 * Number(execFileSync('ffprobe', [
        '-v', 'error', '-show_entries', 'format=duration', '-of', 'csv=p=0', file.replace('.part.', '.'),
      ]));
      assert.ok(Math.abs(length - Math.max(video, audio)) < 50, `${file}: ${length} ms, and ${video} and ${audio}`);
    }
    await server.stop();
  }
  console.log(`lacked at most ${Math.max(...lacks)} ms of ${lacks.length} tracks`);
});

test('a full disk ends recordings and nothing else; when there is room again, the next is recorded', { timeout: 120_000 }, async () => {
  const folder = path.join(root, 'full');
  // A file system of three megabytes that only the server sees.
  const script = 'mkdir -p "$0" && mount -t tmpfs -o size=3m none "$0" && exec "$@"';
  server = await serve('recordings-full', { args: ['--dev', '--record-folder', folder], inside: ['unshare', '--mount', 'sh', '-c', script, folder] });
  const seen = `/proc/${server.child.pid}/root${folder}`;
  const report = await load('recordings-load-full', 'full', 2, 12, 2_500_000).result();
  assert.deepEqual([report.lost, report.packets_expected > 5_000], [0, true], JSON.stringify(report));
  assert.equal(await server.metric('distributary_failed_recordings_total'), 2);
  const log = readFileSync(path.join(OUT, 'recordings-full.log'), 'utf8');
  assert.equal(log.match(/recording failed.*No space left on device/g)?.length, 2, log);
  const left = files(seen, '.webm');
  assert.equal(left.length, 2, `${left}`);
  for (const file of left) {
    const { video, audio } = ends(file);
    assert.ok(video > 2_000 && audio > 2_000, `${file}: video to ${video} ms, audio to ${audio} ms`);
    rmSync(file);
  }
  await load('recordings-load-after', 'after', 1, 2, 400_000).result();
  await until('the next recording is whole', 5_000, () => files(seen, '.webm').some((name) => name.includes('after') && !name.includes('.part.')));
  assert.equal(await server.metric('distributary_failed_recordings_total'), 2);
});
