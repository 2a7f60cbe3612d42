// Starts Chromium and Firefox, opens pages in them, and waits for moving pictures and sound.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import puppeteer from 'puppeteer-core';
import { until } from './server.mjs';

const CLIENT = readFileSync(new URL('./client.js', import.meta.url), 'utf8');

function executable(...paths) {
  const path = paths.filter(Boolean).find((p) => existsSync(p));
  assert.ok(path, `none of ${paths.filter(Boolean).join(', ')} is installed: run tests/run, which installs it`);
  return path;
}

/** `extra` are further command line switches. */
export function chromium(extra = []) {
  return puppeteer.launch({
    executablePath: executable(process.env.CHROMIUM, '/usr/bin/chromium'),
    headless: true,
    protocolTimeout: 60_000,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required',
      '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
      '--disable-background-timer-throttling', '--disable-backgrounding-occluded-windows', '--disable-renderer-backgrounding',
      ...extra,
    ],
  });
}

export function firefox() {
  return puppeteer.launch({
    browser: 'firefox',
    executablePath: executable(process.env.FIREFOX, '/usr/bin/firefox-esr'),
    headless: true,
    protocolTimeout: 60_000,
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true,
      'media.navigator.permission.disabled': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'media.peerconnection.ice.loopback': true,
      'media.autoplay.default': 0,
      'media.autoplay.blocking_policy': 0,
      'dom.min_background_timeout_value': 4,
    },
  });
}

const pages = new Set();

/** Closes the pages of a test, passed or failed, so that they take no time from the next: for `afterEach`. */
export async function closePages() {
  const all = [...pages];
  pages.clear();
  await Promise.all(all.map((page) => page.close().catch(() => {})));
}

/** A page of the server's origin with the client of client.js in it: `url` is any page, the health check by default. */
export async function open(browser, server, path = '/healthz') {
  const page = await browser.newPage();
  pages.add(page);
  page.on('pageerror', (error) => server.note(`page error: ${error.message}`));
  page.on('console', (line) => server.note(`page ${line.type()}: ${line.text()}`));
  await page.goto(server.url + path, { waitUntil: 'load' });
  await page.evaluate(CLIENT);
  return page;
}

export async function publish(browser, server, room, options = {}) {
  const page = await open(browser, server);
  await page.evaluate((o) => window.client.publish(o), { url: `${server.url}/whip/${room}`, ...options });
  return page;
}

export async function watch(browser, server, room, options = {}) {
  const page = await open(browser, server);
  await page.evaluate((o) => window.client.watch(o), { url: `${server.url}/whep/${room}`, ...options });
  return page;
}

export const stats = (page) => page.evaluate(() => window.client.stats());
export const picture = (page, ms) => page.evaluate((m) => window.client.picture(m), ms);

/** Waits until the page decodes frames and shows a picture that has contrast and changes. Returns what was seen. */
export async function moving(page, { frames = 20, ms = 20_000, what = 'viewer', contrast = 5, changed = 0.005 } = {}) {
  const before = await stats(page);
  let seen = {};
  await until(`${what} shows a moving picture`, ms, async () => {
    const now = await stats(page);
    seen = { decoded: now.framesDecoded - before.framesDecoded, state: now.state, packets: now.packetsReceived };
    if (seen.decoded < frames) return false;
    Object.assign(seen, await picture(page));
    return seen.mean > 10 && seen.contrast > contrast && seen.changed > changed;
  }, () => JSON.stringify(seen));
  return { ...seen, ...(await stats(page)) };
}

/**
 * Waits until sound above silence is heard, by the receiver's own statistics and by a Web Audio analyser (Firefox has none
 * where there is no audio device).
 */
export async function heard(page, { ms = 10_000, what = 'viewer', analyser = true } = {}) {
  let seen = {};
  await until(`${what} hears the tone`, ms, async () => {
    const { audioEnergy, audioLevel, audioPackets } = await stats(page);
    const loudness = analyser ? await page.evaluate(() => window.client.loudness()) : undefined;
    seen = { audioEnergy, audioLevel, audioPackets, loudness };
    return audioEnergy > 0.001 && audioLevel > 0.01 && !(loudness <= 0.005);
  }, () => JSON.stringify(seen));
  return seen;
}

/**
 * Takes a viewer from one choice to the next while a second one, the control, keeps what it has; both get `ms` for each. Returns what was
 * seen in each step, and `clean`: whether the control saw every frame in time. Two cores encode, forward and decode it all, and what else
 * the machine does for a moment freezes everybody.
 */
export async function walk(viewer, control, steps, ms, choose) {
  const seen = [];
  for (const step of steps) {
    const [before, steadyBefore] = await Promise.all([stats(viewer), stats(control)]);
    await choose(viewer, step);
    await new Promise((done) => setTimeout(done, ms));
    const [now, steady] = await Promise.all([stats(viewer), stats(control)]);
    const [seenByViewer, seenByControl] = [[before, now], [steadyBefore, steady]].map(([first, last]) => ({
      decoded: last.framesDecoded - first.framesDecoded, freezes: last.freezeCount - first.freezeCount, plis: last.pliCount - first.pliCount,
    }));
    const clean = seenByControl.freezes === 0 && seenByControl.decoded >= (0.9 * 15 * ms) / 1000;
    seen.push({ ...step, frameWidth: now.frameWidth, ...seenByViewer, control: seenByControl, clean });
  }
  return seen;
}

/**
 * Holds what `walk` saw against what a decoder that notices nothing would have shown. Judged are steps that were clean, as was the one
 * before: the width is the step's, `frames` or more were decoded, nothing froze, and nothing was asked for. On a quiet machine that is all
 * steps and there is no exception; of five that the machine disturbed one may have come late. And whatever the machine did, the viewer has
 * to have fared no worse than the control, who switched nothing.
 */
export function unnoticed(what, seen, frames) {
  const judged = seen.filter((step, i) => step.clean && (i === 0 || seen[i - 1].clean));
  const noticed = judged.filter((step) => step.frameWidth !== step.width || step.decoded < frames || step.freezes > 0);
  const disturbed = seen.length - judged.length;
  const exceptions = Math.ceil(disturbed / 5);
  const sum = (steps, field) => steps.reduce((total, step) => total + step[field], 0);
  const count = (steps) => ({ decoded: sum(steps, 'decoded'), freezes: sum(steps, 'freezes'), plis: sum(steps, 'plis') });
  const [all, control] = [count(seen), count(seen.map((step) => step.control))];
  const told = { what, steps: seen.length, judged: judged.length, noticed: noticed.length, exceptions, all, control };
  console.log(JSON.stringify(told));
  const details = JSON.stringify({ ...told, seen });
  assert.ok(noticed.length <= exceptions, `every step showed what was asked for, and nothing froze: ${details}`);
  assert.equal(sum(judged, 'plis'), 0, `the decoder asked for nothing: ${details}`);
  assert.ok(all.freezes <= control.freezes + disturbed, `it froze no more than the control: ${details}`);
  assert.ok(all.plis <= control.plis + disturbed, `it asked for no more than the control: ${details}`);
  // Of each step's frames the viewer may be shown fewer by choice: `frames` of 30.
  assert.ok(all.decoded >= (0.8 * control.decoded * frames) / 30, `as many frames as the control: ${details}`);
}

/** Frames decoded per second over `ms`. */
export async function frameRate(page, ms) {
  const first = await stats(page);
  await new Promise((done) => setTimeout(done, ms));
  const last = await stats(page);
  return { rate: ((last.framesDecoded - first.framesDecoded) * 1000) / (last.at - first.at), first, last };
}
