// A room that is larger than what its members are to be sent: whoever speaks is heard and seen by all, in LiveKit's client in Chromium, with one
// peer connection and with two. Sound is made in the pages, so that it is known who speaks when.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, open } from './browsers.mjs';
import { ONE, TWO, join, load, token } from './sdk.mjs';
import { pause, serve, until } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('crowd', { args: ['--dev', '--room-name', 'crowd*', '--room-speakers', '1', '--room-last-n', '1'] });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A page in a room. */
async function member(room, identity, options) {
  const opened = await load(await open(browser, server));
  await join(opened, server, await token(room, identity), options);
  return opened;
}

/** Publishes a picture that moves and a microphone that is silent, and makes `talk(true)` of the page let it speak: syllables, not a tone. */
async function publish(opened) {
  await opened.evaluate(async () => {
    const context = new AudioContext();
    const tone = new OscillatorNode(context, { frequency: 300 });
    const [gate, voice, out] = [new GainNode(context, { gain: 0 }), new GainNode(context, { gain: 0 }), context.createMediaStreamDestination()];
    tone.connect(gate).connect(voice).connect(out);
    tone.start();
    setInterval(() => gate.gain.setValueAtTime(Date.now() % 240 < 160 ? 0.5 : 0.001, context.currentTime), 20);
    window.talk = (on) => { voice.gain.value = on ? 1 : 0; };
    const canvas = Object.assign(document.createElement('canvas'), { width: 160, height: 90 });
    const paint = canvas.getContext('2d');
    setInterval(() => { paint.fillStyle = `hsl(${Date.now() / 20 % 360} 80% 50%)`; paint.fillRect(0, 0, 160, 90); }, 100);
    const { room } = window.lk;
    await room.localParticipant.publishTrack(out.stream.getAudioTracks()[0], { source: 'microphone', dtx: true });
    await room.localParticipant.publishTrack(canvas.captureStream(10).getVideoTracks()[0], { source: 'camera', simulcast: false });
  });
}

const received = (opened) => opened.evaluate(() => window.lk.received());
const track = async (opened, identity, kind) => (await received(opened)).find((own) => own.identity === identity && own.kind === kind);

/** Waits until a page hears more of somebody than it did, and sees more of it. */
async function hearsAndSees(opened, identity, what) {
  const before = await received(opened);
  const [energy, frames] = ['audio', 'video'].map((kind) => {
    const had = before.find((own) => own.identity === identity && own.kind === kind);
    return (kind === 'audio' ? had?.energy : had?.frames) ?? 0;
  });
  let now = [];
  await until(what, 20_000, async () => {
    now = await received(opened);
    const of = (kind) => now.find((own) => own.identity === identity && own.kind === kind);
    return of('audio')?.energy > energy + 0.01 && of('video')?.frames > frames + 5 && of('video').shown;
  }, () => JSON.stringify(now));
}

const negotiated = (opened) => opened.evaluate(() => window.lk.events.filter(({ name }) => name === 'trackSubscribed' || name === 'trackUnsubscribed').length);

test('of many members those who speak are heard and seen by all', { timeout: 180_000 }, async () => {
  const names = ['ada', 'bob', 'cyd'];
  const speakers = {};
  for (const [index, name] of names.entries()) {
    speakers[name] = await member('crowd-1', name, index === 1 ? TWO : ONE);
    await publish(speakers[name]);
  }
  const listeners = [await member('crowd-1', 'one', ONE), await member('crowd-1', 'two', TWO)];
  const talks = async (name) => Promise.all(names.map((other) => speakers[other].evaluate((on) => window.talk(on), other === name)));
  for (const listener of listeners) {
    await until('everybody and everything published', 15_000, async () => (await received(listener)).length === 6);
  }
  for (const name of ['ada', 'bob', 'cyd', 'ada']) {
    await talks(name);
    await Promise.all(listeners.map((listener) => hearsAndSees(listener, name, `${name} is heard and seen by a listener`)));
  }
  // Who speaks is seen by the speaker before, and sees that one.
  await hearsAndSees(speakers.cyd, 'ada', 'ada is heard and seen by cyd');
  const before = (await track(speakers.ada, 'cyd', 'video'))?.frames ?? 0;
  await until('ada sees cyd, who spoke before', 10_000, async () => (await track(speakers.ada, 'cyd', 'video'))?.frames > before + 3);

  // What was negotiated once is not negotiated again: those who spoke go on where they were.
  const counts = await Promise.all(listeners.map(negotiated));
  for (const name of ['cyd', 'ada', 'cyd']) {
    await talks(name);
    await Promise.all(listeners.map((listener) => hearsAndSees(listener, name, `${name} is heard and seen again`)));
  }
  assert.deepEqual(await Promise.all(listeners.map(negotiated)), counts);

  // The others stay published, and nothing comes of them.
  for (const listener of listeners) {
    const still = async () => Promise.all(['ada', 'bob'].map(async (name) => (await track(listener, name, 'audio'))?.packets ?? 0));
    const packets = await still();
    await pause(2_000);
    assert.deepEqual(await still(), packets, 'who is silent is not sent');
    assert.equal((await received(listener)).length, 6);
  }
  // But what is asked for by name is.
  for (const listener of listeners) {
    await listener.evaluate(() => window.lk.room.remoteParticipants.get('bob').trackPublications.forEach((publication) => {
      publication.setSubscribed(false);
      publication.setSubscribed(true);
    }));
    const frames = (await track(listener, 'bob', 'video'))?.frames ?? 0;
    await until('bob, who was asked for', 15_000, async () => (await track(listener, 'bob', 'video'))?.frames > frames + 5,
      () => '');
    await hearsAndSees(listener, 'cyd', 'and cyd, who speaks');
  }
});

test('rooms of other names are sent whole', { timeout: 60_000 }, async () => {
  const members = [];
  for (const name of ['ada', 'bob', 'cyd']) {
    members.push(await member('other', name, ONE));
    await publish(members.at(-1));
  }
  let seen;
  await until('everybody of everybody', 30_000, async () => {
    seen = await received(members[0]);
    return seen.length === 4 && seen.every((own) => own.subscribed && (own.kind === 'audio' || own.frames > 5));
  }, () => JSON.stringify(seen));
});
