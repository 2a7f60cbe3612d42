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

/** Asks for a layer as the page would: from the browser, so that CORS is part of it. */
export async function choose(viewer, wish) {
  const [status, answer] = await viewer.evaluate(async (body) => {
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(`${window.session.location}/layer`, { method: 'POST', headers, body: JSON.stringify(body) });
    return [response.status, await response.text()];
  }, wish);
  assert.equal(status, 204, answer);
}

/** What the API tells of a page's session, found by its address: that of the relay, if it came through one. */
export async function session(server, room, page, relay) {
  const ports = relay?.ports ?? await page.evaluate(async () => {
    const reports = [...(await window.session.pc.getStats()).values()];
    return reports.filter(({ type }) => type === 'local-candidate').map(({ port }) => port);
  });
  const { sessions } = await server.room(room);
  return sessions.find(({ remote_address: address }) => ports.includes(Number(address?.split(':').at(-1))));
}

/** Frames decoded per second over `ms`. */
export async function frameRate(page, ms) {
  const first = await stats(page);
  await new Promise((done) => setTimeout(done, ms));
  const last = await stats(page);
  return { rate: ((last.framesDecoded - first.framesDecoded) * 1000) / (last.at - first.at), first, last };
}
