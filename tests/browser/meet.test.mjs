// The meeting page: four people in one room, through the page's own buttons and keys, in a wide and in a narrow window.
//
// With MEET_SERVER=livekit the same against a LiveKit server (livekit-server.mjs): what fails there too is the page's fault.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages } from './browsers.mjs';
import { livekit } from './livekit-server.mjs';
import { NARROW, WIDE, fits, join, lobby, meet, seen as seesItself, seesAndHears, shot, shows, text, tiles, voice } from './meeting.mjs';
import { KEY, SECRET, TESTS, configWithKeys, pause, serve, token, until } from './server.mjs';

const LIVEKIT = process.env.MEET_SERVER === 'livekit';
const NAMES = ['Ada Lovelace', 'Grace Hopper', 'Linus', 'Margaret Hamilton'];

let server;
let locked;
let browser;
before(async () => {
  server = LIVEKIT ? await livekit('meet') : await serve('meet');
  locked = LIVEKIT ? await livekit('meet-token', { key: KEY, secret: SECRET, open: false })
    : await serve('meet-token', { args: ['--config', configWithKeys('meet-token')] });
  browser = await chromium([`--use-file-for-fake-audio-capture=${voice()}`]);
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await locked?.stop();
  await server?.stop();
});

test('what is embedded is what its source builds', { timeout: 120_000 }, () => {
  const source = path.resolve(TESTS, '..', 'src', 'admin', 'meet');
  const out = mkdtempSync(path.join(tmpdir(), 'meet-'));
  try {
    execFileSync(path.join(source, 'build'), [out], { timeout: 100_000 });
    const committed = readdirSync(path.join(source, 'dist')).sort();
    assert.deepEqual(readdirSync(out).sort(), committed);
    for (const file of committed) {
      const [built, there] = [out, path.join(source, 'dist')].map((folder) => readFileSync(path.join(folder, file)));
      assert.ok(built.equals(there), `dist/${file} is not what src/admin/meet/build makes of its source: run it and commit the result`);
    }
  } finally {
    rmSync(out, { recursive: true });
  }
});

test('four people meet', { timeout: 300_000 }, async () => {
  const pages = [];
  for (const [i, name] of NAMES.entries()) pages.push(await meet(browser, server, '/meet/four', name, i === 3 ? NARROW : WIDE));
  const [ada, grace, linus, margaret] = pages;
  for (const [i, page] of pages.entries()) await seesAndHears(page, NAMES[i], NAMES.filter((name) => name !== NAMES[i]));
  await shows(ada, 'who speaks is marked', (seen) => NAMES.slice(1).every((name) => seen[name].speaking));
  await shows(margaret, 'so is one\'s own voice', (seen) => seen['Margaret Hamilton (you)'].speaking);
  await shot(ada, '1280x720-grid');
  await shot(margaret, '390x844-grid');
  await fits(ada, 'the grid in a wide window');
  await fits(margaret, 'the grid in a narrow window');

  // Muted is shown, and nothing is heard. The sound on the way may still arrive.
  await grace.keyboard.press('m');
  for (const page of [ada, linus, margaret]) await shows(page, 'Grace is shown muted', (seen) => seen['Grace Hopper'].muted);
  await pause(1_500);
  const silent = (await tiles(ada))['Grace Hopper'].sound;
  await pause(2_000);
  assert.ok((await tiles(ada))['Grace Hopper'].sound - silent < 1e-5, 'nothing is heard of who is muted');
  await grace.keyboard.press('m');
  await shows(ada, 'Grace is heard again', (seen) => !seen['Grace Hopper'].muted && seen['Grace Hopper'].sound - silent > 1e-4);

  // A camera that is off leaves the initials.
  await linus.keyboard.press('v');
  for (const page of [ada, grace, margaret]) await shows(page, 'Linus has no picture', (seen) => !seen.Linus.picture);
  await linus.keyboard.press('v');
  for (const page of [ada, grace, margaret]) await shows(page, 'Linus is seen again', (seen) => seen.Linus.picture && seen.Linus.light > 20);

  // Chat: a badge for who has it closed, the text for who has it open; as text, never as HTML.
  await margaret.keyboard.press('c');
  await linus.keyboard.press('c');
  await linus.type('#chat-text', 'hello <b>all</b>, https://example.org/agenda');
  await linus.keyboard.press('Enter');
  await until('Margaret reads the message', 10_000, async () => (await text(margaret, 'messages')).includes('hello <b>all</b>'));
  assert.match(await text(margaret, 'messages'), /^Linus /);
  assert.equal(await margaret.$eval('#messages a', (link) => link.href), 'https://example.org/agenda');
  await ada.waitForFunction(() => document.querySelector('#bar-more .badge').innerText === '1', { timeout: 10_000 });
  await fits(margaret, 'the chat in a narrow window');
  await shot(margaret, '390x844-chat');
  await shot(linus, '1280x720-chat');
  for (const page of [linus, margaret]) await page.keyboard.press('Escape');

  // A raised hand, in the tile and at the top of the list.
  await margaret.keyboard.press('h');
  await ada.keyboard.press('p');
  for (const page of [ada, grace, linus]) await shows(page, 'Margaret raises a hand', (seen) => seen['Margaret Hamilton'].hand);
  await until('she is the first of the others', 5_000, async () => /^Ada Lovelace \(you\)\s+Margaret Hamilton/.test(await text(ada, 'people-list')),
    () => 'in the list');
  await margaret.keyboard.press('h');
  await shows(ada, 'the hand is down', (seen) => !seen['Margaret Hamilton'].hand);
  await ada.keyboard.press('Escape');

  // The one who speaks is shown large.
  await ada.keyboard.press('g');
  for (const page of [ada, grace, margaret]) await page.keyboard.press('m');
  await shows(ada, 'only Linus speaks', (seen) => Object.entries(seen).every(([name, tile]) => tile.speaking === (name === 'Linus')));
  await until('Linus is large', 5_000, () => ada.evaluate(() => meeting.stage.large().participant.name === 'Linus'));
  for (const page of [grace, linus]) await page.keyboard.press('m');
  await until('then Grace is', 10_000, () => ada.evaluate(() => meeting.stage.large().participant.name === 'Grace Hopper'));
  for (const page of [ada, linus, margaret]) await page.keyboard.press('m');

  // Who shows somebody large gets more of the picture than who shows them small; each tile says which layer it is.
  await ada.evaluate(() => meeting.stage.pinParticipant(meeting.stage.large().participant));
  const large = await ada.evaluate(() => meeting.stage.large().element.getAttribute('aria-label'));
  const layer = /^\d+p( \d\/\d)?$/;
  // Full height if the machine can encode and the path is believed to carry it; more than the least in any case.
  await shows(ada, `${large} comes as a large layer`, (seen) => seen[large].height >= 360 && layer.test(seen[large].layer), 60_000);
  const small = NAMES.find((name) => name !== large && name !== NAMES[0]);
  await shows(ada, `${small} comes as a small layer`, (seen) => seen[small].height <= 180 && layer.test(seen[small].layer), 40_000);
  await shot(ada, '1280x720-speaker');
  await ada.click(`[data-pinned="true"] .tile-pin`);
  await ada.keyboard.press('g');
  await margaret.keyboard.press('g');
  await pause(500);
  await fits(margaret, 'the speaker in a narrow window');
  await margaret.click('#bar-main [data-menu="more"]');
  await fits(margaret, 'the menu in a narrow window');
  await shot(margaret, '390x844-menu');
  await margaret.keyboard.press('Escape');

  // A screen: everybody sees it, large.
  await grace.keyboard.press('s');
  for (const page of [ada, linus, margaret]) {
    await shows(page, 'the screen is shown', (seen) => seen['Grace Hopper’s screen']?.frames > 5 && seen['Grace Hopper’s screen'].width > 300, 30_000);
    assert.equal(await page.evaluate(() => meeting.stage.large().element.getAttribute('aria-label')), 'Grace Hopper’s screen');
  }
  await shot(ada, '1280x720-screen');
  await shot(margaret, '390x844-screen');
  await grace.keyboard.press('s');
  for (const page of [ada, linus, margaret]) await shows(page, 'the screen is gone', (seen) => !('Grace Hopper’s screen' in seen));
  assert.equal(await ada.evaluate(() => meeting.stage.layout), 'grid', 'who had the grid has it again');

  // Leaving removes the tile; who left can come back.
  await margaret.click('#bar-main [data-action="leave"]');
  for (const page of [ada, grace, linus]) {
    await shows(page, 'Margaret is gone', (seen) => Object.keys(seen).length === 3 && !('Margaret Hamilton' in seen));
  }
  assert.match(await text(margaret, 'left-title'), /You have left/);
  await fits(margaret, 'the screen after the meeting');
  await margaret.click('#rejoin');
  await seesItself(margaret);
  await fits(margaret, 'the screen before the meeting');
  await shot(margaret, '390x844-join');
  await join(margaret, 'Margaret Hamilton');
  await seesAndHears(ada, 'Ada', ['Margaret Hamilton']);
  await seesAndHears(margaret, 'Margaret', ['Ada Lovelace', 'Grace Hopper', 'Linus']);
});

test('a cut connection comes back by itself, and the page says what happens', { timeout: 120_000 }, async () => {
  const [ada, grace] = [await meet(browser, server, '/meet/cut', 'Ada'), await meet(browser, server, '/meet/cut', 'Grace')];
  await seesAndHears(ada, 'Ada', ['Grace']);
  for (const scenario of ['signal-reconnect', 'full-reconnect']) {
    const banner = ada.waitForFunction(() => !document.getElementById('banner').hidden && document.getElementById('banner').innerText, { timeout: 20_000, polling: 20 });
    await ada.evaluate((name) => void meeting.room.simulateScenario(name), scenario);
    assert.match(await (await banner).jsonValue(), /connection was lost/i);
    await until(`${scenario}: the banner goes`, 30_000, async () => (await text(ada, 'banner')) === '');
    await seesAndHears(ada, 'Ada', ['Grace']);
    await seesAndHears(grace, 'Grace', ['Ada']);
  }
});

test('with a secret only those who have it see and hear', { timeout: 120_000 }, async () => {
  const enter = (name, hash) => meet(browser, server, `/meet/secret${hash}`, name);
  const [ada, grace] = [await enter('Ada', '#secret=delta+1'), await enter('Grace', '#secret=delta+1')];
  await seesAndHears(ada, 'Ada', ['Grace']);
  await seesAndHears(grace, 'Grace', ['Ada']);
  assert.ok(await ada.evaluate(() => [...meeting.room.remoteParticipants.values()].every((participant) => participant.isEncrypted)), 'it is encrypted');
  assert.equal(await ada.evaluate(() => meeting.link().endsWith('/meet/secret#secret=delta+1')), true, 'the link carries the secret');
  await ada.keyboard.press('c');
  await ada.type('#chat-text', 'for your eyes only');
  await ada.keyboard.press('Enter');
  await grace.keyboard.press('c');
  await until('Grace reads it', 10_000, async () => (await text(grace, 'messages')).includes('for your eyes only'));

  // With another secret the packets come, and no picture or sound is made of them. Without one they are not even asked for.
  const [wrong, none] = [await enter('Wrong', '#secret=delta+2'), await enter('None', '')];
  const received = () => wrong.evaluate(async () => {
    const ada = [...meeting.room.remoteParticipants.values()].find(({ name }) => name === 'Ada');
    const stats = async ([publication]) => {
      const report = await publication?.track?.getRTCStatsReport();
      return [...(report?.values() ?? [])].find(({ type }) => type === 'inbound-rtp') ?? {};
    };
    const [video, audio] = [await stats([...ada.videoTrackPublications.values()]), await stats([...ada.audioTrackPublications.values()])];
    return { packets: video.packetsReceived, frames: video.framesDecoded, heard: audio.packetsReceived, sound: audio.totalAudioEnergy };
  });
  let first;
  await until('packets come', 40_000, async () => (first = await received()).packets > 20 && first.heard > 50, () => JSON.stringify(first));
  await pause(4_000);
  const last = await received();
  const told = JSON.stringify({ first, last });
  assert.ok(last.heard - first.heard > 50, `they go on coming: ${told}`);
  assert.ok(last.frames === 0 && last.sound - first.sound < 1e-4, `no picture and no sound: ${told}`);
  await until('and the page says so', 10_000, () => wrong.evaluate(() => meeting.strangers.size > 0));
  const without = (await tiles(none)).Ada;
  assert.deepEqual([without.picture, without.sound], [false, null]);
  assert.match(await none.$eval('[aria-label="Ada"] .tile-words', (words) => words.innerText), /secret that you have not given/);
  await seesAndHears(ada, 'Ada, as before,', ['Grace']);
});

test('a meeting is begun by giving it a name, and the link leads to it', { timeout: 120_000 }, async () => {
  const page = await lobby(browser, server, '/meet', NARROW);
  await seesItself(page);
  await page.type('#room-name', 'the höhle/1');
  await join(page, 'Ada');
  const link = await page.evaluate(() => meeting.link());
  assert.equal(link, `${server.url}/meet/the%20h%C3%B6hle%2F1`);
  assert.match(await text(page, 'alone'), /Nobody else is here yet/);
  await fits(page, 'alone in a narrow window');
  const other = await lobby(browser, server, new URL(link).pathname);
  await seesItself(other);
  assert.equal(await text(other, 'join-title'), 'the höhle/1');
  await join(other, 'Grace');
  await seesAndHears(page, 'Ada', ['Grace']);
});

test('without any device one joins to watch and listen', { timeout: 120_000 }, async () => {
  await meet(browser, server, '/meet/poor', 'Ada');
  const page = await lobby(browser, server, '/meet/poor', NARROW);
  await page.evaluateOnNewDocument(() => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('Requested device not found', 'NotFoundError'));
    navigator.mediaDevices.enumerateDevices = () => Promise.resolve([]);
  });
  await page.reload();
  await until('the page says so', 10_000, async () => /No camera was found.*No microphone was found/s.test(await text(page, 'preview-words')));
  await fits(page, 'without a device');
  await shot(page, '390x844-no-devices');
  await join(page, 'Poor');
  await seesAndHears(page, 'who has no device', ['Ada']);
  await page.click('#bar-main [data-action="mic"]');
  await until('and says so again', 5_000, async () => /No microphone was found/.test(await text(page, 'toasts')));
});

test('a server with keys wants a token, and says what is wrong with one', { timeout: 120_000 }, async () => {
  const made = (options) => token({ key: KEY, secret: SECRET, room: 'locked', publish: true, subscribe: true, ...options });
  const page = await lobby(browser, locked, '/meet/locked', NARROW);
  await until('the page asks for a token', 10_000, async () => /wants an access token/.test(await text(page, 'join-problem')));
  await fits(page, 'the box for a token');
  await shot(page, '390x844-token');
  await page.type('#my-name', 'Ada');
  const says = async (typed, words) => {
    await page.$eval('#token', (input, value) => (input.value = value), typed);
    await page.click('#join');
    await until(`"${words}"`, 10_000, async () => words.test(await text(page, 'join-problem')), () => text(page, 'join-problem'));
  };
  await says('nonsense', /no access token/);
  await says(made({ seconds: -100 }), /has expired/);
  await says(made({ room: 'other' }), /for the meeting “other”, not “locked”/);
  await says(made({ secret: 'another secret, thirty-two bytes long' }), /did not let you in/);
  await page.$eval('#token', (input, value) => (input.value = value), made({ identity: 'ada', name: 'Ada' }));
  await page.click('#join');
  await page.waitForFunction(() => document.body.dataset.view === 'meeting', { timeout: 20_000 });

  // In the address, from where it goes at once; the name in it cannot be changed.
  const guest = await lobby(browser, locked, `/meet/locked?access_token=${made({ identity: 'guest', name: 'The Guest', publish: false })}`);
  await guest.waitForFunction(() => location.search === '', { timeout: 10_000 });
  await join(guest, 'Somebody else');
  await shows(page, 'the guest is here by the name in the token', (seen) => 'The Guest' in seen);
  await until('who may not publish is told', 10_000, async () => /token does not allow/.test(await text(guest, 'toasts')), () => text(guest, 'toasts'));
  await seesAndHears(guest, 'The guest', ['Ada']);
  await guest.keyboard.press('h');
  await until('who may not raise a hand is told', 10_000, async () => /canUpdateOwnMetadata/.test(await text(guest, 'toasts')), () => text(guest, 'toasts'));
});
