// Apps made with LiveKit's SDK for browsers: its client in Chromium and Firefox, with one peer connection (its default) and with two (as its
// other SDKs have), and its server SDK beside them. What is asserted is media that was decoded and data that arrived.

import assert from 'node:assert/strict';
import http from 'node:http';
import { after, afterEach, before, test } from 'node:test';
import { AccessToken, DataPacket_Kind, RoomServiceClient, TrackSource, WebhookReceiver } from 'livekit-server-sdk';
import { chromium, closePages, firefox, open } from './browsers.mjs';
import { CURRENT, OLDER, ONE, TWO, join, load, token } from './sdk.mjs';
import { pause, serve, until } from './server.mjs';

let server;
let browser;
let hooks;
const told = [];
/** So many webhooks are not taken; how many there were of them. */
let busy = 0;
let refused = 0;
before(async () => {
  const receiver = new WebhookReceiver('devkey', 'secret');
  hooks = http.createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    if (busy > 0) {
      busy--;
      refused++;
      return void response.writeHead(503).end();
    }
    const event = await receiver.receive(body, request.headers.authorization).catch((error) => ({ event: `forged: ${error.message}` }));
    told.push(event);
    response.end();
  }).listen(0, '127.0.0.1');
  await new Promise((done) => hooks.once('listening', done));
  // Firefox pairs no loopback candidate with an address of its own.
  const address = process.env.DISTRIBUTARY_TEST_ADDRESS;
  assert.ok(address, 'no DISTRIBUTARY_TEST_ADDRESS: run this by `tests/run browser`, which makes a network namespace');
  server = await serve('livekit', { args: ['--media-bind', address, '--dev', '--webhook', `http://127.0.0.1:${hooks.address().port}/`, '--webhook-api-key', 'devkey'] });
  browser = await chromium();
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
  hooks?.close();
});

const page = async (where = browser, client = CURRENT) => load(await open(where, server), client);

/** A page in a room. */
async function member(room, identity, { options = ONE, where = browser, client = CURRENT, grants = {}, connect = {} } = {}) {
  const opened = await page(where, client);
  await join(opened, server, await token(room, identity, grants), options, connect);
  return opened;
}

const received = (opened) => opened.evaluate(() => window.lk.received());

/** Waits until a page decodes so many pictures and hears so much of each of these. */
async function seesAndHears(opened, names, { frames = 10, ms = 30_000, kinds = ['audio', 'video'] } = {}) {
  let seen = [];
  await until(`pictures and sound of ${names}`, ms, async () => {
    seen = await received(opened);
    return names.every((name) => kinds.every((kind) => seen.some((track) =>
      track.identity === name && track.kind === kind && (kind === 'audio' ? track.energy > 0.01 : track.frames > frames && track.shown))));
  }, () => JSON.stringify(seen));
  return seen;
}

async function happened(opened, name, what = () => true, ms = 10_000) {
  await until(`event ${name}`, ms, async () => (await opened.evaluate(() => window.lk.events)).some((event) => event.name === name && what(event.what)),
    () => '');
}

for (const [mode, options] of [['one peer connection', ONE], ['two peer connections', TWO]]) {
  test(`members with ${mode} see, hear and write to each other`, { timeout: 180_000 }, async () => {
    const room = options === ONE ? 'one' : 'two';
    const ada = await member(room, 'ada', { options });
    await ada.evaluate(() => window.lk.publish());
    const bob = await member(room, 'bob', { options });
    await bob.evaluate(() => window.lk.publish());
    await Promise.all([seesAndHears(ada, ['bob']), seesAndHears(bob, ['ada'])]);

    // Data: to all, to one, calls, and a text of many packets.
    await ada.evaluate(() => window.lk.room.localParticipant.publishData(new TextEncoder().encode('to all'), { reliable: true, topic: 'a topic' }));
    await until('what was sent to all', 10_000, async () => (await bob.evaluate(() => window.lk.data)).some((data) =>
      data.text === 'to all' && data.from === 'ada' && data.topic === 'a topic'));
    await ada.evaluate(() => window.lk.room.localParticipant.registerRpcMethod('greet', async (call) => `${call.callerIdentity} said ${call.payload}`));
    const answer = await bob.evaluate(() => window.lk.room.localParticipant.performRpc({ destinationIdentity: 'ada', method: 'greet', payload: 'hello' }));
    assert.equal(answer, 'bob said hello');
    await ada.evaluate(() => window.lk.room.registerTextStreamHandler('long', async (reader, from) => window.lk.data.push({ long: (await reader.readAll()).length, from: from.identity })));
    await bob.evaluate(() => window.lk.room.localParticipant.sendText('x'.repeat(100_000), { topic: 'long', destinationIdentities: ['ada'] }));
    await until('a long text', 15_000, async () => (await ada.evaluate(() => window.lk.data)).some((data) => data.long === 100_000 && data.from === 'bob'));
    assert.ok(!(await bob.evaluate(() => window.lk.data)).some((data) => data.from === 'bob'), 'nothing comes back to its sender');

    // A data track: frames of one packet and of many, to who has subscribed; gone with its publisher's word.
    await ada.evaluate(async () => {
      window.track = await window.lk.room.localParticipant.publishDataTrack({ name: 'gauge' });
      const frames = [new Uint8Array([1, 2, 3]), Uint8Array.from({ length: 40_000 }, (_, i) => i)];
      window.pushing = setInterval(() => frames.forEach((payload) => { try { window.track.tryPush({ payload }); } catch { /* one at a time */ } }), 100);
    });
    assert.equal(await ada.evaluate(() => window.lk.room.localParticipant.publishDataTrack({ name: 'gauge' }).catch(({ name }) => name)), 'DataTrackPublishError');
    await bob.evaluate(() => {
      window.frames = [];
      window.gauge = () => [...window.lk.room.remoteParticipants.get('ada').dataTracks.values()].find(({ info }) => info.name === 'gauge');
    });
    await until('bob knows of the data track', 10_000, () => bob.evaluate(() => window.gauge() !== undefined));
    await bob.evaluate(async () => {
      const reader = window.gauge().subscribe().getReader();
      const read = async () => {
        for (let got = await reader.read(); !got.done; got = await reader.read()) window.frames.push([got.value.payload.length, got.value.payload.every((byte, i) => byte === (got.value.payload.length > 3 ? i & 255 : i + 1))]);
        window.frames.push('the end');
      };
      read();
    });
    await until('frames of the data track', 15_000, () => bob.evaluate(() => [3, 40_000].every((length) => window.frames.filter(([l, right]) => l === length && right).length > 3)),
      async () => JSON.stringify(await bob.evaluate(() => window.frames)));
    await ada.evaluate(async () => {
      clearInterval(window.pushing);
      await window.track.unpublish();
    });
    await until('the data track ends', 10_000, () => bob.evaluate(() => window.gauge() === undefined && window.frames.at(-1) === 'the end'), async () => JSON.stringify(await bob.evaluate(() => window.frames.slice(-3))));

    // What one says of itself.
    await bob.evaluate(() => window.lk.room.localParticipant.setMetadata('a note'));
    await bob.evaluate(() => window.lk.room.localParticipant.setAttributes({ hand: 'up' }));
    await bob.evaluate(() => window.lk.room.localParticipant.setMicrophoneEnabled(false));
    await until('what bob says of itself', 10_000, () => ada.evaluate(() => {
      const bob = window.lk.room.remoteParticipants.get('bob');
      return bob.name === "bob's name" && bob.metadata === 'a note' && bob.attributes.hand === 'up' && !bob.isMicrophoneEnabled;
    }));

    // Tracks go and come again, on m-lines that were used before.
    for (let round = 0; round < 3; round++) {
      await ada.evaluate(async () => {
        const [publication] = [...window.lk.room.localParticipant.videoTrackPublications.values()];
        await window.lk.room.localParticipant.unpublishTrack(publication.track);
      });
      await until('the track goes', 10_000, async () => !(await received(bob)).some((track) => track.kind === 'video'));
      await ada.evaluate(() => window.lk.publish(['video']));
      await seesAndHears(bob, ['ada'], { kinds: ['video'] });
    }
    await happened(ada, 'activeSpeakersChanged');
    await ada.evaluate(() => window.lk.room.disconnect());
    await until('ada is gone', 5_000, () => bob.evaluate(() => window.lk.room.remoteParticipants.size === 0));
  });
}

test('both kinds of clients, an older one and Firefox are in one room', { timeout: 180_000 }, async () => {
  const fox = await firefox();
  try {
    const members = [
      await member('mixed', 'one', { options: ONE }),
      await member('mixed', 'two', { options: TWO }),
      await member('mixed', 'older', { options: {}, client: OLDER }),
      await member('mixed', 'fox', { where: fox }),
    ];
    const names = ['one', 'two', 'older', 'fox'];
    for (const opened of members) await opened.evaluate(() => window.lk.publish());
    for (const [i, opened] of members.entries()) await seesAndHears(opened, names.filter((_, j) => j !== i), { ms: 60_000 });
  } finally {
    await fox.close();
  }
});

test('a client comes back after its socket was cut, after its path changed, and anew', { timeout: 180_000 }, async () => {
  const ada = await member('back', 'ada');
  const bob = await member('back', 'bob', { options: TWO });
  for (const opened of [ada, bob]) await opened.evaluate(() => window.lk.publish());
  await Promise.all([seesAndHears(ada, ['bob']), seesAndHears(bob, ['ada'])]);
  const address = async (name) => (await server.room('back')).sessions.filter((session) => session.identity === name).map((session) => session.remote_address).sort().join();
  for (const scenario of ['signal-reconnect', 'resume-reconnect', 'full-reconnect']) {
    for (const [opened, name, other] of [[ada, 'ada', 'bob'], [bob, 'bob', 'ada']]) {
      const sid = await opened.evaluate(() => { window.lk.events.length = 0; return window.lk.room.localParticipant.sid; });
      const path = await address(name);
      await opened.evaluate((which) => window.lk.room.simulateScenario(which), scenario).catch(() => {});
      await happened(opened, 'reconnected', () => true, 30_000);
      const resumed = scenario === 'signal-reconnect';
      assert.equal(await opened.evaluate(() => window.lk.room.localParticipant.sid) === sid, resumed, `${scenario}: the same member if it could be`);
      const frames = Math.max(0, ...(await received(opened)).filter((track) => track.kind === 'video').map((track) => track.frames ?? 0));
      await seesAndHears(opened, [other], { frames: frames + 5, kinds: ['video'] });
      // ICE was restarted, and found a way from another port.
      if (resumed) assert.notEqual(await address(name), path);
    }
  }
});

test('layers: each gets the quality it asks for, and what nobody wants is not sent', { timeout: 180_000 }, async () => {
  const ada = await member('layers', 'ada', { options: { ...ONE, dynacast: true } });
  await ada.evaluate(() => window.lk.publish(['video']));
  const bob = await member('layers', 'bob');
  await seesAndHears(bob, ['ada'], { kinds: ['video'] });
  const choose = (quality) => bob.evaluate((wanted) => {
    const [publication] = [...window.lk.room.remoteParticipants.get('ada').videoTrackPublications.values()];
    publication.setVideoQuality(wanted);
  }, quality);
  const width = async () => (await received(bob)).find((track) => track.kind === 'video')?.width;
  await choose(0);
  await until('the low quality', 20_000, async () => await width() === 320, async () => `${await width()}`);
  // Dynacast: the publisher stops sending the others.
  const active = async () => (await ada.evaluate(() => window.lk.sent())).filter((layer) => layer.active !== false && layer.kind === 'video').map((layer) => layer.rid);
  await until('only the low quality is sent', 20_000, async () => JSON.stringify(await active()) === '["q"]', async () => JSON.stringify(await active()));
  await choose(1);
  await until('the medium quality', 30_000, async () => await width() === 640, async () => `${await width()}`);
  // Nothing, and something again.
  await bob.evaluate(() => [...window.lk.room.remoteParticipants.get('ada').videoTrackPublications.values()][0].setSubscribed(false));
  await until('unsubscribed', 10_000, async () => !(await received(bob)).some((track) => track.subscribed));
  await bob.evaluate(() => [...window.lk.room.remoteParticipants.get('ada').videoTrackPublications.values()][0].setSubscribed(true));
  await seesAndHears(bob, ['ada'], { kinds: ['video'] });
});

test('tracks that are muted when a member comes are there by their packets, and are seen and heard when they no longer are', { timeout: 120_000 }, async () => {
  const ada = await member('muted', 'ada');
  // A track of the SDK's that is muted may go on as silence; one that its sender has lost does not.
  await ada.evaluate(async () => {
    await window.lk.publish();
    window.quiet = async (is) => {
      for (const { track } of window.lk.room.localParticipant.trackPublications.values()) {
        if (is) await track.mute();
        if (track.kind === 'audio') await track.sender.replaceTrack(is ? null : track.mediaStreamTrack);
        if (!is) await track.unmute();
      }
    };
    await window.quiet(true);
  });
  await pause(1_000);
  const filled = () => server.metric('distributary_fill_packets_total');
  for (const [name, options] of [['bob', ONE], ['carl', TWO]]) {
    const before = await filled();
    const opened = await member('muted', name, { options });
    let seen;
    await until(`packets of tracks that are muted, at ${name}`, 15_000, async () => {
      seen = await received(opened);
      return seen.length === 2 && seen.every((track) => track.muted && track.packets >= 3);
    }, () => JSON.stringify(seen));
    assert.ok(!seen.some((track) => track.frames > 0 || track.energy > 0), JSON.stringify(seen));
    await pause(6_000);
    const more = await filled() - before;
    assert.ok(more >= 80 && more <= 100, `five seconds of them for each of two tracks, ${more} packets`);
    await ada.evaluate(() => window.quiet(false));
    await seesAndHears(opened, ['ada']);
    await ada.evaluate(() => window.quiet(true));
    await pause(1_000);
  }
  // Who finds them as they mostly are gets no such packet.
  await ada.evaluate(() => window.quiet(false));
  await pause(2_000);
  const before = await filled();
  await seesAndHears(await member('muted', 'dora'), ['ada']);
  assert.equal(await filled(), before);
});

test('an application looks after rooms, and is told what happens', { timeout: 120_000 }, async () => {
  const rooms = new RoomServiceClient(server.url, 'devkey', 'secret');
  const made = await rooms.createRoom({ name: 'managed', metadata: 'first', maxParticipants: 2, emptyTimeout: 60 });
  assert.match(made.sid, /^RM_/);
  assert.deepEqual((await rooms.listRooms(['managed'])).map((room) => [room.name, room.metadata, room.maxParticipants]), [['managed', 'first', 2]]);
  const ada = await member('managed', 'ada');
  const bob = await member('managed', 'bob');
  await assert.rejects(member('managed', 'carl'), 'a third one does not fit');
  await ada.evaluate(() => window.lk.publish());
  await seesAndHears(bob, ['ada']);
  const people = await rooms.listParticipants('managed');
  assert.deepEqual(people.map((person) => person.identity).sort(), ['ada', 'bob']);
  const sound = people.find((person) => person.identity === 'ada').tracks.find((track) => track.mimeType.startsWith('audio/'));
  await rooms.mutePublishedTrack('managed', 'ada', sound.sid, true);
  await until('ada is muted', 10_000, () => ada.evaluate(() => !window.lk.room.localParticipant.isMicrophoneEnabled));
  await rooms.updateRoomMetadata('managed', 'second');
  await happened(bob, 'roomMetadataChanged', (what) => what.includes('second'));
  await rooms.sendData('managed', new TextEncoder().encode('from the server'), DataPacket_Kind.RELIABLE, { destinationIdentities: ['bob'], topic: 't' });
  await until('data of the server', 10_000, async () => (await bob.evaluate(() => window.lk.data)).some((data) => data.text === 'from the server'));
  assert.deepEqual(await ada.evaluate(() => window.lk.data), []);
  for (const move of ['moveParticipant', 'forwardParticipant']) {
    await assert.rejects(rooms[move]('managed', 'ada', 'other'), ({ status, code, message }) => status === 501 && code === 'unimplemented' && /RemoveParticipant/.test(message));
  }
  const updated = await rooms.updateParticipant('managed', 'ada', { metadata: 'told', permission: { canPublish: false, canSubscribe: true, canPublishData: true } });
  assert.equal(updated.metadata, 'told');
  await until('ada may not publish any more', 10_000, async () => !(await received(bob)).some((track) => track.subscribed));
  await rooms.removeParticipant('managed', 'ada');
  await happened(ada, 'disconnected');
  await rooms.deleteRoom('managed');
  await happened(bob, 'disconnected');
  assert.deepEqual(await rooms.listRooms(['managed']), []);
  await assert.rejects(rooms.getParticipant('managed', 'bob'), /There is no room/);
  const mine = () => told.filter((event) => event.room?.name === 'managed').map((event) => event.event);
  const wanted = ['room_started', 'participant_joined', 'track_published', 'track_unpublished', 'participant_left', 'room_finished'];
  await until('all webhooks', 10_000, async () => wanted.every((name) => mine().includes(name)), () => mine().join(' '));
  assert.ok(!told.some((event) => event.event.startsWith('forged')), 'each is signed as it should be');
});

test('rooms end by themselves, and webhooks are sent until they are taken', { timeout: 90_000 }, async () => {
  const rooms = new RoomServiceClient(server.url, 'devkey', 'secret');
  const there = async (name) => (await rooms.listRooms([name])).length === 1;
  const mine = (name) => told.filter((event) => event.room?.name === name).map((event) => event.event);
  [busy, refused] = [2, 0];
  const began = Date.now();
  await rooms.createRoom({ name: 'nobody', emptyTimeout: 3, departureTimeout: 60 });
  await pause(1_500);
  assert.ok(await there('nobody'));
  await until('a room that nobody came to ends', 6_000, async () => !await there('nobody'));
  assert.ok(Date.now() - began >= 3_000);
  await until('it was told in order', 15_000, () => mine('nobody').length === 2);
  assert.deepEqual([mine('nobody'), refused], [['room_started', 'room_finished'], 2]);
  assert.ok(Date.now() - began >= 3_000, 'after waits of one and two seconds');

  await rooms.createRoom({ name: 'left', emptyTimeout: 60, departureTimeout: 3 });
  const ada = await member('left', 'ada');
  await ada.evaluate(() => window.lk.room.disconnect());
  await until('ada is gone', 5_000, async () => (await rooms.listParticipants('left')).length === 0);
  const gone = Date.now();
  await pause(1_500);
  assert.ok(await there('left'));
  await until('a room that all have left ends', 6_000, async () => !await there('left'));
  assert.ok(Date.now() - gone >= 2_500);
});

test('permissions hold: who may not publish, subscribe or send data does not', { timeout: 90_000 }, async () => {
  const ada = await member('grants', 'ada');
  await ada.evaluate(() => window.lk.publish(['audio']));
  const mute = await member('grants', 'listener', { grants: { canPublish: false, canPublishData: false } });
  const blind = await member('grants', 'speaker', { grants: { canSubscribe: false } });
  await seesAndHears(mute, ['ada'], { kinds: ['audio'] });
  await assert.rejects(mute.evaluate(() => window.lk.publish(['audio'])));
  await mute.evaluate(() => window.lk.room.localParticipant.publishData(new TextEncoder().encode('no'), { reliable: true })).catch(() => {});
  await pause(2_000);
  assert.ok(!(await received(blind)).some((track) => track.subscribed), 'nothing is sent to who may not watch');
  assert.deepEqual(await ada.evaluate(() => window.lk.data), []);
  // Sources by name; who is hidden is nobody to others; who records is told of.
  const camera = await member('grants', 'camera', { grants: { canPublishSources: [TrackSource.CAMERA] } });
  await assert.rejects(camera.evaluate(() => window.lk.publish(['audio'])));
  await camera.evaluate(() => window.lk.publish(['video']));
  await seesAndHears(ada, ['camera'], { kinds: ['video'] });
  const hidden = await member('grants', 'hidden', { grants: { hidden: true } });
  await seesAndHears(hidden, ['ada'], { kinds: ['audio'] });
  assert.deepEqual(await ada.evaluate(() => [...window.lk.room.remoteParticipants.keys()].sort()), ['camera', 'listener', 'speaker']);
  assert.equal(await hidden.evaluate(() => window.lk.room.isRecording), false);
  const recorder = await member('grants', 'recorder', { grants: { recorder: true } });
  assert.equal(await recorder.evaluate(() => window.lk.room.isRecording), true);
  // Only those who are named may watch.
  await ada.evaluate(() => window.lk.room.localParticipant.setTrackSubscriptionPermissions(false, []));
  await until('nobody may watch', 10_000, async () => !(await received(mute)).some((track) => track.subscribed && track.identity === 'ada'));
  await ada.evaluate(() => window.lk.room.localParticipant.setTrackSubscriptionPermissions(false, [{ participantIdentity: 'listener', allowAll: true }]));
  await seesAndHears(mute, ['ada'], { kinds: ['audio'] });
});

test('who proves nothing is told so, and garbage ends a connection without harm', { timeout: 60_000 }, async () => {
  const ask = async (jwt, where = '/rtc/validate') => {
    const response = await fetch(`${server.url}${where}?access_token=${jwt}`);
    return [response.status, (await response.text()).trim()];
  };
  assert.deepEqual(await ask(await token('a', 'x')), [200, 'success']);
  const forged = await token('a', 'x', {}, 'devkey', 'another secret');
  assert.deepEqual((await ask(forged))[0], 401);
  assert.equal((await ask(await token('a', 'x', { roomJoin: false })))[0], 403);
  const expired = new AccessToken('devkey', 'secret', { identity: 'x', ttl: -60 });
  expired.addGrant({ room: 'a', roomJoin: true });
  const [status, text] = await ask(await expired.toJwt());
  assert.ok(status === 401 && text.includes('expired'), text);
  assert.equal((await fetch(`${server.url}/rtc/v1/validate?access_token=${await token('a', 'x')}&join_request=%21`)).status, 400);
  const rooms = new RoomServiceClient(server.url, 'devkey', 'another secret');
  await assert.rejects(rooms.listRooms(), /signature/);

  const quiet = await member('noise', 'quiet');
  await quiet.evaluate(() => window.lk.publish(['audio']));
  const closed = async (jwt, said) => (await page()).evaluate((url, bytes) => new Promise((done) => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send(typeof bytes === 'string' ? bytes : new Uint8Array(bytes));
    socket.onclose = (event) => done([event.code, event.reason]);
  }), `${server.url.replace('http', 'ws')}/rtc?access_token=${jwt}`, said);
  const noisy = await token('noise', 'noisy');
  assert.deepEqual(await closed(noisy, [255, 255, 255, 255]), [1008, 'a message is no SignalRequest in protobuf']);
  assert.deepEqual(await closed(noisy, '{"offer":7}'), [1008, 'a message is no SignalRequest in JSON']);
  const other = await member('noise', 'other');
  await seesAndHears(other, ['quiet'], { kinds: ['audio'] });
});
