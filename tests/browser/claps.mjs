// A clapperboard in a file: when it flashes and when it beeps, as ffmpeg decodes it.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';

/** Milliseconds: a frame of 25 in a second. Less is not noticed (ITU-R BT.1359: sound 45 ms early or 125 ms late). */
const APART_MAX = 40;

/** Of flash and beep in a file: the milliseconds at which each begins, by ffmpeg's decoders. */
function claps(file) {
  const decode = (...args) => {
    const { status, stdout, stderr, error } = spawnSync('ffmpeg', ['-v', 'error', '-i', file, ...args, '-'], { timeout: 60_000, maxBuffer: 1 << 28 });
    assert.ok(!error && status === 0, `ffmpeg of ${file}: ${error ?? stderr}`);
    return stdout;
  };
  const rises = (bright, time) => bright.flatMap((is, at) => (is && at > 0 && !bright[at - 1] ? [time(at)] : []));
  // A picture becomes one pixel; each prints its time and how bright it is.
  const filter = 'scale=1:1:flags=area,format=gray,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-';
  const lines = decode('-map', '0:v', '-fps_mode', 'passthrough', '-enc_time_base', '-1', '-vf', filter, '-f', 'null').toString();
  const shown = [...lines.matchAll(/pts_time:(\S+)\s+lavfi\.signalstats\.YAVG=(\S+)/g)].map(([, time, luma]) => [1_000 * time, Number(luma)]);
  // Filled up with silence where nothing is, so that a sample's number says when it is.
  const pcm = decode('-map', '0:a', '-ac', '1', '-af', 'aresample=48000:async=1:min_hard_comp=0.01:first_pts=0', '-f', 's16le');
  const samples = new Int16Array(pcm.buffer, pcm.byteOffset, pcm.length >> 1);
  const STEP = 96;
  const loud = Array.from({ length: Math.floor(samples.length / STEP) }, (_, at) => samples.subarray(at * STEP, (at + 1) * STEP).some((s) => Math.abs(s) > 1_500));
  // Between two waves' tops it is quiet for less than this.
  const beeps = rises(loud, (at) => (1_000 * at * STEP) / 48_000).filter((at, i, all) => i === 0 || at - all[i - 1] > 300);
  return { flashes: rises(shown.map(([, luma]) => luma > 128), (at) => shown[at][0]), beeps };
}

/**
 * Holds a clapperboard's file against what it has to say: each flash is at its beep, and that does not change. Returns how far each is after
 * it, in milliseconds. `lost`: so many claps may be missing; `tardy`: of ten seconds so many may have come from the source like that, a busy
 * browser that draws its flash late.
 */
export function together(what, file, seconds, { lost = 0, tardy = 0 } = {}) {
  const { flashes, beeps } = claps(file);
  const apart = flashes.map((flash) => flash - beeps.reduce((best, beep) => (Math.abs(beep - flash) < Math.abs(best - flash) ? beep : best), Infinity));
  // Half a second away is another clap's, the one that belongs to it is before the beginning, behind the end, or lost.
  const inside = apart.filter((ms) => Math.abs(ms) < 500);
  console.log(`${what}: flash after beep, ms: ${inside.map((ms) => ms.toFixed(0)).join(' ')}`);
  assert.ok(inside.length >= seconds - 3 - lost, `${what}: ${inside.length} claps in ${seconds} s`);
  const off = inside.filter((ms) => Math.abs(ms) > APART_MAX);
  assert.ok(off.length <= Math.ceil((tardy * seconds) / 10), `${what}: ${inside}`);
  return inside;
}
