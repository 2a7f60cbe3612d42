// Takes a viewer from layer to layer while another one, the control, keeps what it has, and judges whether the viewer's decoder noticed.

import assert from 'node:assert/strict';
import { stats } from './browsers.mjs';
import { pause } from './server.mjs';

const FIELDS = { decoded: 'framesDecoded', freezes: 'freezeCount', plis: 'pliCount' };

/** What the statistics have grown by. */
function grown(first, last) {
  return Object.fromEntries(Object.entries(FIELDS).map(([name, field]) => [name, last[field] - first[field]]));
}

/**
 * Gives each step `ms`. Returns what both saw in each, and `clean`: whether the control saw every frame in time. Two cores encode, forward and
 * decode it all, and what else the machine does for a moment freezes everybody. `look` tells what else there is to know at the end of a step.
 */
export async function walk(viewer, control, steps, { ms, frameRate }, choose, look = () => undefined) {
  const seen = [];
  for (const step of steps) {
    const before = await Promise.all([stats(viewer), stats(control)]);
    await choose(viewer, step);
    // Until a key frame that it has to wait for is there.
    await pause(0.4 * ms);
    const settled = await Promise.all([stats(viewer), stats(control)]);
    await pause(0.6 * ms);
    const now = await Promise.all([stats(viewer), stats(control)]);
    const [mine, steady] = [0, 1].map((i) => ({ ...grown(before[i], now[i]), late: grown(settled[i], now[i]).decoded }));
    const clean = steady.freezes === 0 && steady.decoded >= (0.9 * frameRate * ms) / 1000;
    seen.push({ ...step, frameWidth: now[0].frameWidth, ...mine, control: steady, due: (frameRate * ms) / 1000, clean, look: await look() });
  }
  return seen;
}

/** Whether it was shown the share of the control's frames that its temporal layers are. */
function inTime({ share, late, control }) {
  const expected = share * control.late;
  return Math.abs(late - expected) <= 2 + 0.2 * expected;
}

/**
 * Holds what `walk` saw against what a decoder that notices nothing would have shown. Judged are steps that were clean, as was the one
 * before: the width is the step's, the frames are those of its temporal layers, nothing froze, and nothing was asked for. On a quiet machine
 * that is all steps and there is no exception; of five that the machine disturbed one may have come late. And whatever the machine
 * did, the viewer has to have fared no worse than the control, who switched nothing.
 */
export function unnoticed(what, seen) {
  const judged = seen.filter((step, i) => step.clean && (i === 0 || seen[i - 1].clean));
  const noticed = judged.filter((step) => step.frameWidth !== step.width || !inTime(step) || step.freezes > 0);
  const disturbed = seen.length - judged.length;
  const exceptions = Math.ceil(disturbed / 5);
  const sum = (steps, field) => steps.reduce((total, step) => total + step[field], 0);
  const count = (steps) => ({ decoded: sum(steps, 'decoded'), freezes: sum(steps, 'freezes'), plis: sum(steps, 'plis') });
  const [all, control] = [count(seen), count(seen.map((step) => step.control))];
  const told = { what, steps: seen.length, judged: judged.length, noticed: noticed.length, exceptions, all, control };
  console.log(JSON.stringify(told));
  const details = JSON.stringify({ ...told, seen });
  assert.ok(control.decoded > 0.3 * sum(seen, 'due'), `the control saw enough to compare with: ${details}`);
  assert.ok(noticed.length <= exceptions, `every step showed what was asked for, and nothing froze: ${details}`);
  assert.equal(sum(judged, 'plis'), 0, `the decoder asked for nothing: ${details}`);
  assert.ok(all.freezes <= control.freezes + disturbed, `it froze no more than the control: ${details}`);
  assert.ok(all.plis <= control.plis + disturbed, `it asked for no more than the control: ${details}`);
  const expected = seen.reduce((total, step) => total + step.share * step.control.decoded, 0);
  assert.ok(all.decoded >= 0.8 * expected, `as many frames as the control, of the layers that it was given: ${details}`);
}
