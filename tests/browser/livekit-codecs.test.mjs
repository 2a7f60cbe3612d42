// What LiveKit's client publishes in a codec that not everybody decodes: those who do not are sent the second codec that its publisher
// announced, under the id of the same track, and it is encoded only as long as there is one of them. And how many pictures a second they ask for.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, open } from './browsers.mjs';
import { ONE, TWO, join, load, token } from './sdk.mjs';
import { pause, serve, until } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('livekit-codecs', { args: ['--dev'] });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A page in a room; `lacks`: names of codecs that it does not decode. */
async function member(room, identity, options = ONE, lacks = '') {
  const opened = await load(await open(browser, server));
  await opened.evaluate((names) => {
    if (!names) return;
    const takes = ({ mimeType }) => !new RegExp(names, 'i').test(mimeType);
    for (const name of ['createOffer', 'createAnswer']) {
      const original = RTCPeerConnection.prototype[name];
      RTCPeerConnection.prototype[name] = function (...args) {
        for (const transceiver of this.getTransceivers()) {
          if (transceiver.receiver.track.kind === 'video' && !transceiver.sender.track) {
            transceiver.setCodecPreferences(RTCRtpReceiver.getCapabilities('video').codecs.filter(takes));
          }
        }
        return original.apply(this, args);
      };
    }
  }, lacks);
  await join(opened, server, await token(room, identity), options);
  return opened;
}

const SMALL = { width: 640, height: 360, frameRate: 15 };
const publish = (opened, options, resolution = SMALL) => opened.evaluate((o, r) => window.lk.publish(['video'], o, r), options, resolution);
const pictures = async (opened, identity) => (await opened.evaluate(() => window.lk.received())).filter((track) => track.identity === identity && track.kind === 'video');

/** Waits until a page decodes more pictures of somebody, in a codec; tells the track's id. */
async function sees(opened, identity, codec, ms = 40_000) {
  let seen = [];
  const had = (await pictures(opened, identity)).find((track) => track.codec === codec)?.frames ?? 0;
  await until(`pictures of ${identity} in ${codec}`, ms, async () => {
    seen = await pictures(opened, identity);
    return seen.length === 1 && seen[0].codec === codec && seen[0].frames > had + 10 && seen[0].shown;
  }, () => JSON.stringify(seen));
  return seen[0].sid;
}

/** The codecs that a page encodes. */
const encodes = async (opened) => [...new Set((await opened.evaluate(() => window.lk.sent())).filter((own) => own.kind === 'video' && own.flows).map((own) => own.codec))].sort();

for (const [codec, name] of [['vp9', 'VP9'], ['av1', 'AV1']]) {
  test(`who does not decode ${name} is sent VP8, as long as it is there`, { timeout: 240_000 }, async () => {
    const room = `backup-${codec}`;
    const ada = await member(room, 'ada');
    await publish(ada, { videoCodec: codec, backupCodec: { codec: 'vp8' } });
    const bob = await member(room, 'bob');
    const sid = await sees(bob, 'ada', name);
    await pause(1_000);
    assert.deepEqual(await encodes(ada), [name], 'nobody needs another');

    const carl = await member(room, 'carl', TWO, 'VP9|AV1');
    const dora = await member(room, 'dora', ONE, 'VP9|AV1');
    assert.deepEqual([await sees(carl, 'ada', 'VP8'), await sees(dora, 'ada', 'VP8')], [sid, sid], 'under the id of the same track');
    assert.equal(await sees(bob, 'ada', name), sid);
    assert.deepEqual(await encodes(ada), [name, 'VP8'].sort());
    const published = (await server.room(room)).sessions.find((session) => session.identity === 'ada').tracks.filter((track) => track.direction === 'in');
    assert.deepEqual(published.map((track) => [track.codec, track.sid]).sort(), [[name, sid], ['VP8', sid]].sort());

    // It is asked for layers like any other.
    await carl.evaluate(() => [...window.lk.room.remoteParticipants.get('ada').videoTrackPublications.values()][0].setVideoQuality(0));
    await until('carl has the lowest', 20_000, async () => (await pictures(carl, 'ada'))[0].width <= 320, async () => JSON.stringify(await pictures(carl, 'ada')));

    // Nobody needs the second any more; then somebody does again.
    for (const opened of [carl, dora]) await opened.evaluate(() => window.lk.room.disconnect());
    await until('VP8 is not encoded any more', 30_000, async () => JSON.stringify(await encodes(ada)) === JSON.stringify([name]), async () => JSON.stringify(await encodes(ada)));
    assert.equal(await sees(bob, 'ada', name), sid);
    const emil = await member(room, 'emil', ONE, 'VP9|AV1');
    assert.equal(await sees(emil, 'ada', 'VP8'), sid);

    // Both go with the track.
    await ada.evaluate(async () => {
      const [publication] = [...window.lk.room.localParticipant.videoTrackPublications.values()];
      await window.lk.room.localParticipant.unpublishTrack(publication.track);
    });
    await until('nothing is left', 15_000, async () => (await pictures(bob, 'ada')).length + (await pictures(emil, 'ada')).length === 0);
    await publish(ada, { videoCodec: codec, backupCodec: { codec: 'vp8' } });
    await Promise.all([sees(bob, 'ada', name), sees(emil, 'ada', 'VP8')]);
  });
}

test('with the policy of regression everybody is sent the second codec once one needs it', { timeout: 120_000 }, async () => {
  const ada = await member('regression', 'ada', TWO);
  await publish(ada, { videoCodec: 'vp9', backupCodec: { codec: 'vp8' }, backupCodecPolicy: 2 });
  const bob = await member('regression', 'bob');
  const sid = await sees(bob, 'ada', 'VP9');
  const carl = await member('regression', 'carl', TWO, 'VP9|AV1');
  assert.deepEqual([await sees(carl, 'ada', 'VP8'), await sees(bob, 'ada', 'VP8')], [sid, sid]);
  await until('VP9 is not encoded any more', 20_000, async () => JSON.stringify(await encodes(ada)) === '["VP8"]', async () => JSON.stringify(await encodes(ada)));
});

test('without a second codec who cannot decode the first is told so, and is not asked for offers for ever', { timeout: 120_000 }, async () => {
  const ada = await member('alone', 'ada');
  await publish(ada, { videoCodec: 'av1', backupCodec: false });
  for (const [identity, options] of [['two', TWO], ['one', ONE]]) {
    const opened = await member('alone', identity, options, 'AV1');
    await until('it is told', 15_000, async () => (await opened.evaluate(() => window.lk.events)).some(({ name }) => name === 'trackSubscriptionFailed'),
      async () => JSON.stringify(await opened.evaluate(() => window.lk.events.map(({ name }) => name))));
    await pause(1_000);
    const versions = () => opened.evaluate(() => {
      const { publisher, subscriber } = window.lk.room.engine.pcManager;
      return [publisher, subscriber].map((own) => own && /o=\S+ \S+ (\d+)/.exec(own.getLocalDescription()?.sdp ?? '')?.[1]);
    });
    const before = await versions();
    await pause(3_000);
    assert.deepEqual(await versions(), before);
  }
});

test('no more pictures a second come than a member asks for', { timeout: 120_000 }, async () => {
  const ada = await member('frames', 'ada');
  await publish(ada, { videoCodec: 'vp8' }, { width: 640, height: 360, frameRate: 20 });
  const bob = await member('frames', 'bob');
  await sees(bob, 'ada', 'VP8');
  const rate = async () => {
    const [before] = await pictures(bob, 'ada');
    const from = Date.now();
    await pause(3_000);
    const [now] = await pictures(bob, 'ada');
    return (now.frames - before.frames) * 1_000 / (Date.now() - from);
  };
  const ask = (frames) => bob.evaluate((fps) => [...window.lk.room.remoteParticipants.get('ada').videoTrackPublications.values()][0].setVideoFPS(fps), frames);
  let seen = 0;
  const comes = (from, to) => until(`between ${from} and ${to} pictures a second`, 40_000, async () => (seen = await rate()) >= from && seen <= to, () => `${seen}`);
  await comes(16, 24);
  // Temporal layers of a half and of a quarter of the pictures.
  await ask(9);
  await comes(6, 13);
  const { width } = (await pictures(bob, 'ada'))[0];
  await ask(4);
  await comes(3, 7);
  assert.equal((await pictures(bob, 'ada'))[0].width, width, 'as large as before');
  await ask(30);
  await comes(16, 24);
});
