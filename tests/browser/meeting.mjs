// The meeting page as a test uses it: opens it, joins by its buttons, and reads what it shows.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { open } from './browsers.mjs';
import { OUT, until } from './server.mjs';

export const WIDE = { width: 1280, height: 720 };
export const NARROW = { width: 390, height: 844 };

/** Something like speech: Chromium's own beeps are too few to be taken for that, and its noise suppression takes a plain tone away. */
export function voice() {
  const rate = 48_000;
  const samples = new Int16Array(rate * 4);
  for (let i = 0; i < samples.length; i++) {
    const t = i / rate;
    const syllable = Math.max(0, Math.sin(2 * Math.PI * 4 * t)) ** 0.5;
    const pitch = 140 + 40 * Math.sin(2 * Math.PI * 0.5 * t);
    const vowel = [1, 2, 3, 4, 5, 6, 8].reduce((sum, n) => sum + Math.sin(2 * Math.PI * pitch * n * t) / n, 0);
    samples[i] = 7_000 * syllable * vowel;
  }
  const header = Buffer.alloc(44);
  header.write('RIFF', 0);
  header.writeUInt32LE(36 + samples.byteLength, 4);
  header.write('WAVEfmt ', 8);
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(rate, 24);
  header.writeUInt32LE(rate * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write('data', 36);
  header.writeUInt32LE(samples.byteLength, 40);
  const file = path.join(OUT, 'meet-voice.wav');
  writeFileSync(file, Buffer.concat([header, Buffer.from(samples.buffer)]));
  return file;
}

/** The page of a room, at the screen before the meeting. */
export async function lobby(browser, at, where, viewport = WIDE) {
  const page = await open(browser, at, where);
  await page.setViewport(viewport);
  // All tabs are looked at: a page that is not has its pictures paused.
  await page.emulateFocusedPage(true);
  return page;
}

export async function join(page, name) {
  await page.$eval('#my-name', (input, text) => (input.disabled || (input.value = text)), name);
  await page.click('#join');
  await page.waitForFunction(() => document.body.dataset.view === 'meeting', { timeout: 20_000 });
}

export async function meet(browser, at, where, name, viewport) {
  const page = await lobby(browser, at, where, viewport);
  await seen(page);
  await join(page, name);
  return page;
}

/** Waits until one sees oneself. */
export const seen = (page) => page.waitForFunction(() => window.meeting && !document.getElementById('preview').hidden, { timeout: 20_000 });

/** What is on the stage: of each visible tile what it shows, frames and energy of what is received. */
export const tiles = (page) => page.evaluate(async () => {
  const seen = {};
  for (const tile of meeting.stage.tiles.values()) {
    const { element, video, participant } = tile;
    const canvas = new OffscreenCanvas(16, 9);
    const context = canvas.getContext('2d', { willReadFrequently: true });
    if (video.videoWidth) context.drawImage(video, 0, 0, 16, 9);
    const { data } = context.getImageData(0, 0, 16, 9);
    let light = 0;
    for (let i = 0; i < data.length; i += 4) light += (data[i] + data[i + 1] + data[i + 2]) / (16 * 9 * 3);
    let sound = null;
    for (const { track } of participant.audioTrackPublications.values()) {
      if (!participant.isLocal && track) sound = (await track.getReceiverStats())?.totalAudioEnergy ?? null;
    }
    seen[element.getAttribute('aria-label')] = {
      visible: !element.hidden, local: tile.local, muted: element.dataset.muted === 'true', speaking: element.dataset.speaking === 'true',
      hand: !tile.hand.hidden, picture: element.dataset.video === 'true', width: video.videoWidth, height: video.videoHeight,
      frames: video.getVideoPlaybackQuality().totalVideoFrames, light, sound, layer: tile.layer.hidden ? '' : tile.layer.textContent,
    };
  }
  return seen;
});

/** Waits until the page shows what `right` says of its tiles; returns them. */
export async function shows(page, what, right, ms = 20_000) {
  let seen;
  await until(what, ms, async () => right((seen = await tiles(page))), () => JSON.stringify(seen));
  return seen;
}

/** Waits until somebody's picture moves and sound arrives, as this page sees and hears them. */
export async function seesAndHears(page, me, names) {
  const before = await tiles(page);
  await shows(page, `${me} sees and hears ${names}`, (now) => names.every((name) => {
    const [tile, past] = [now[name], before[name]];
    return tile?.picture && tile.width > 0 && tile.light > 20 && tile.frames - (past?.frames ?? 0) >= 10 && tile.sound - (past?.sound ?? 0) > 1e-4;
  }), 40_000);
}

/** Nothing sticks out of the window: no sideways scrolling, and every button is where it can be touched. */
export async function fits(page, what) {
  const wrong = await page.evaluate(() => {
    const { innerWidth: width, innerHeight: height } = window;
    const out = [];
    if (document.documentElement.scrollWidth > width) out.push(`the page is ${document.documentElement.scrollWidth} wide`);
    if (document.scrollingElement.scrollLeft || document.getElementById('meeting-view').scrollLeft) out.push('scrolled sideways');
    for (const control of document.querySelectorAll('button, input, select, textarea, a')) {
      if (!control.checkVisibility()) continue;
      const { left, top, right, bottom } = control.getBoundingClientRect();
      // The screen before the meeting may be scrolled.
      const low = bottom > height && document.body.dataset.view === 'meeting';
      if (left < 0 || right > width || top < 0 || low) out.push(`${control.id || control.ariaLabel || control.textContent}: ${[left, top, right, bottom].map(Math.round)}`);
      if (control.matches('.round') && (right - left < 40 || bottom - top < 40)) out.push(`${control.ariaLabel} is too small to touch`);
    }
    return out;
  });
  assert.deepEqual(wrong, [], what);
}

export const shot = (page, name) => page.screenshot({ path: path.join(OUT, `meet-${name}.png`) });
export const text = (page, id) => page.$eval(`#${id}`, (element) => (element.checkVisibility() ? element.innerText : ''));

