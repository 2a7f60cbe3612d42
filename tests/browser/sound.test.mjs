// Sound through a network that loses every fifth packet, on a round trip of 150 ms: two viewers of one publisher, one of whom offered
// redundancy (RED, RFC 2198). What its decoder has to invent is a fraction of what the other's has to. Without loss neither gets any.
// So it is for a third, who takes sound alone and therefore is not asked what its path carries: that one tells as little as RFC 3550 wants.
// Not held yet: that the picture goes on too. As both ways lose a fifth here, the estimate falls below the smallest picture, which pauses.
// The same on the way to the server: two publishers, one of whom offered redundancy. And what the API tells of a publisher's sound.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, publish, stats, watch } from './browsers.mjs';
import { Relay } from './relay.mjs';
import { pause, serve, until } from './server.mjs';

let server;
let browser;
const relays = [];
before(async () => {
  server = await serve('sound');
  browser = await chromium();
});
afterEach(closePages);
afterEach(() => {
  for (const relay of relays.splice(0)) relay.stop();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** How to come through a relay of one's own. */
async function lossyWay(seed, delay = 0) {
  const relay = await Relay.start(server.mediaPort, { seed, delay });
  relays.push(relay);
  return { codec: 'VP8', mediaPort: relay.port, connectMs: 40_000 };
}

const lossyViewer = async (room, seed, options) => watch(browser, server, room, { ...await lossyWay(seed, 75), ...options });

/** What a viewer's decoder was given and what it made up, over `ms`. */
async function listen(viewer, ms) {
  const first = await stats(viewer);
  await pause(ms);
  const last = await stats(viewer);
  const grown = (field) => last[field] - first[field];
  return {
    concealed: grown('samplesConcealed') / grown('samplesReceived'),
    // Chromium does not say how many redundant blocks it got; they show in the length of a payload.
    payload: grown('audioBytes') / grown('audioPackets'),
    lost: grown('audioLost') / (grown('audioLost') + grown('audioPackets')),
    frames: (1_000 * grown('framesDecoded')) / (last.at - first.at),
    frozen: grown('freezeSeconds'),
    told: (1_000 * grown('told')) / (last.at - first.at),
  };
}

test('redundancy keeps sound whole at 20 % loss, and is not sent without', { timeout: 120_000 }, async () => {
  await publish(browser, server, 'sound', { codec: 'VP8', width: 160, height: 90, frameRate: 10 });
  const options = [{}, { plainSound: true }, { soundAlone: true }];
  const viewers = await Promise.all(options.map((own, i) => lossyViewer('sound', 5 + i, own)));
  const answers = await Promise.all(viewers.map((viewer) => viewer.evaluate(() => window.session.answer)));
  assert.match(answers[0], /m=audio .* 63 111\r\n[^]*a=rtpmap:63 red\/48000\/2\r\na=fmtp:63 111\/111/);
  assert.doesNotMatch(answers[1], /red\//);
  assert.match(answers[2], /a=rtpmap:63 red\/48000\/2\r\n/);
  await Promise.all(viewers.map((viewer) => heard(viewer)));
  const [clean, cleanPlain, cleanAlone] = await Promise.all(viewers.map((viewer) => listen(viewer, 5_000)));
  assert.ok(clean.told > 8 && cleanAlone.told < 3, `packets a second that a viewer sends: ${JSON.stringify([clean, cleanAlone])}`);
  assert.ok(clean.payload < 1.1 * cleanPlain.payload, `no redundancy without loss: ${JSON.stringify([clean, cleanPlain])}`);

  for (const relay of relays) relay.loss = 0.2;
  await pause(8_000);
  const [red, plain, alone] = await Promise.all(viewers.map((viewer) => listen(viewer, 20_000)));
  const { sessions } = await server.room('sound');
  const paths = sessions.map(({ purpose, target_bitrate: target, layers }) => [purpose, target, layers.map(({ bitrates }) => bitrates)]);
  const seen = JSON.stringify({ clean, cleanPlain, cleanAlone, red, plain, alone, paths });
  server.note(seen);
  for (const { lost } of [red, plain, alone]) assert.ok(lost > 0.13 && lost < 0.27, seen);
  assert.ok(plain.concealed > 0.1, seen);
  for (const { payload, concealed } of [red, alone]) {
    assert.ok(payload > 2.5 * plain.payload, `each packet with the two before it: ${seen}`);
    assert.ok(concealed < 0.3 * plain.concealed, seen);
    assert.ok(concealed < 0.05, seen);
  }
});

test('a publisher\'s redundancy keeps sound whole at 20 % loss on its way to the server', { timeout: 120_000 }, async () => {
  const small = { width: 160, height: 90, frameRate: 10 };
  const publishers = [
    await publish(browser, server, 'up-red', { ...await lossyWay(25), ...small }),
    await publish(browser, server, 'up-plain', { ...await lossyWay(26), ...small, plainSound: true }),
  ];
  const answers = await Promise.all(publishers.map((publisher) => publisher.evaluate(() => window.session.answer)));
  assert.match(answers[0], /m=audio .* 63 111\r\n[^]*a=rtpmap:63 red\/48000\/2\r\na=fmtp:63 111\/111/);
  assert.doesNotMatch(answers[1], /red\//);
  // Neither viewer is sent redundancy: what helps is the publisher's alone.
  const viewers = [];
  for (const room of ['up-red', 'up-plain']) viewers.push(await watch(browser, server, room, { codec: 'VP8', plainSound: true }));
  await Promise.all(viewers.map((viewer) => heard(viewer)));
  const [clean, cleanPlain] = await Promise.all(viewers.map((viewer) => listen(viewer, 4_000)));
  assert.ok(clean.payload < 1.1 * cleanPlain.payload, `the publisher's redundancy ends at the server: ${JSON.stringify([clean, cleanPlain])}`);

  for (const relay of relays) relay.loss = 0.2;
  await pause(3_000);
  const recovered = async () => (await server.metrics(['distributary_recovered_packets_total'])).distributary_recovered_packets_total;
  const before = await recovered();
  const [red, plain] = await Promise.all(viewers.map((viewer) => listen(viewer, 20_000)));
  const seen = JSON.stringify({ clean, cleanPlain, red, plain, recovered: await recovered() - before });
  server.note(seen);
  // One repetition leaves the square of the loss.
  assert.ok(plain.lost > 0.13 && plain.lost < 0.27, seen);
  assert.ok(red.lost < 0.08, seen);
  // A busy machine makes both wait for what was not lost.
  assert.ok(red.concealed < 0.4 * plain.concealed || plain.concealed - red.concealed > 0.03, seen);
});

test('the API tells how loud a publisher is, whether it speaks, and its round trip', { timeout: 60_000 }, async () => {
  const page = await publish(browser, server, 'levels', { codec: 'VP8', width: 160, height: 90, frameRate: 10 });
  let seen;
  const publisher = async () => {
    const room = await server.room('levels');
    [seen] = room?.sessions ?? [];
    return { ...seen, speaker: room?.speaker };
  };
  const detail = () => JSON.stringify(seen);
  // A tone that has just begun is as good as a voice; the round trip is that of the loopback.
  await until('the tone is heard', 10_000, async () => (await publisher()).audio_level > -40, detail);
  await until('whose it is is known', 5_000, async () => (await publisher()).speaker === seen.id, detail);
  await until('the publisher answers reference times', 20_000, async () => {
    const { rtt_ms: rtt } = await publisher();
    return rtt > 0 && rtt < 50;
  }, detail);
  // Silence of the same track, without end of its packets.
  await page.evaluate(() => window.session.pc.getSenders().forEach((sender) => {
    if (sender.track?.kind === 'audio') sender.track.enabled = false;
  }));
  await until('it is silent', 10_000, async () => {
    const { audio_level: level, speaking } = await publisher();
    return level <= -100 && speaking === false;
  }, detail);
});
