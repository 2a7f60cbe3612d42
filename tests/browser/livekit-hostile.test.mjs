// Clients of LiveKit's signalling that mean no good, or are broken: each is told what is wrong in the protocol's own terms or cut off, and
// two browsers in the same room see each other all the time. The clients are a bare WebSocket that says what it is told to.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { RoomServiceClient } from 'livekit-server-sdk';
import { chromium, closePages, open } from './browsers.mjs';
import { endClients, start } from '../interop/clients.mjs';
import { join, load, token } from './sdk.mjs';
import { TESTS, pause, serve, until } from './server.mjs';

const require = createRequire(import.meta.url);
const { WebSocket } = require('ws');
const {
  ClientInfo_SDK, DisconnectReason, JoinRequest, LeaveRequest_Action, RequestResponse_Reason, SignalRequest, SignalResponse, TrackType, WrappedJoinRequest,
} = require('@livekit/protocol');
/** So long a picture may stand still while somebody else misbehaves; the browsers share the machine with whoever does. */
const STILL_MS_MAX = 1_500;

let server;
let browser;
before(async () => {
  server = await serve('livekit-hostile', { args: ['--dev'] });
  browser = await chromium();
});
const raws = [];
afterEach(async () => {
  raws.splice(0).forEach((raw) => raw.socket.terminate());
  await endClients();
  await closePages();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Two browsers in a room; the second one notes for how long its picture of the first stood still at worst. */
async function pair(room) {
  const pages = [];
  for (const identity of ['ada', 'bob']) {
    const opened = await load(await open(browser, server));
    await join(opened, server, await token(room, identity), {});
    pages.push(opened);
  }
  const [ada, bob] = pages;
  await ada.evaluate(() => window.lk.publish(['video'], { simulcast: false }, { width: 320, height: 180, frameRate: 15 }));
  const frames = async () => (await bob.evaluate(() => window.lk.received())).find((track) => track.identity === 'ada')?.frames ?? 0;
  await until('bob sees ada', 30_000, async () => await frames() > 15);
  await bob.evaluate(() => {
    const element = document.querySelector('video');
    let last = performance.now();
    window.still = 0;
    const note = () => {
      window.still = Math.max(window.still, performance.now() - last);
      last = performance.now();
      element.requestVideoFrameCallback(note);
    };
    element.requestVideoFrameCallback(note);
  });
  return { ada, bob, async undisturbed() {
    const before = await frames();
    await until('the picture goes on', 10_000, async () => await frames() > before + 15);
    const still = await bob.evaluate(() => window.still);
    assert.ok(still < STILL_MS_MAX, `the picture stood still for ${still} ms`);
    assert.equal(await ada.evaluate(() => window.lk.room.state), 'connected');
    assert.ok(!(await bob.evaluate(() => window.lk.events)).some(({ name }) => /reconnecting|disconnected/.test(name)));
  } };
}

/** A bare client: what it was told, by kind, and how it was closed. */
async function raw(room, identity, { query = '', grants, url = server.url } = {}) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/rtc?access_token=${await token(room, identity, grants)}${query}`);
  const told = [];
  const client = {
    socket,
    told,
    of: (kind) => told.filter((message) => message.case === kind).map((message) => message.value),
    say: (kind, value) => socket.send(new SignalRequest({ message: { case: kind, value } }).toBinary()),
    closed: new Promise((done) => socket.once('close', (code, reason) => done([code, reason.toString()]))),
  };
  raws.push(client);
  socket.on('message', (bytes) => told.push({ ...SignalResponse.fromBinary(bytes).message, at: performance.now() }));
  socket.on('error', () => {});
  await new Promise((done, failed) => {
    socket.once('open', done);
    socket.once('unexpected-response', (_, response) => failed(new Error(`${response.statusCode}`)));
  });
  return client;
}

const left = (client) => client.of('leave').map(({ reason, action, canReconnect }) => [DisconnectReason[reason], LeaveRequest_Action[action], canReconnect]);
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.child.pid}/status`, 'utf8'))[1]) / 1024;

test('a hundred thousand tracks are no more than a member may have', { timeout: 120_000 }, async () => {
  const { ada, undisturbed } = await pair('tracks');
  const eve = await raw('tracks', 'eve');
  const before = resident();
  let sent = 0;
  const pour = (async () => {
    for (; sent < 100_000 && eve.socket.readyState === WebSocket.OPEN; sent++) {
      eve.say('addTrack', { cid: `track ${sent}`, name: 'x'.repeat(100), type: TrackType.VIDEO, width: 1280, height: 720 });
      if (sent % 500 === 0) await pause(0);
    }
  })();
  await until('it is refused', 20_000, () => eve.of('requestResponse').length > 200, () => `${eve.told.length}`);
  assert.ok(eve.of('requestResponse').every(({ reason, message }) => reason === RequestResponse_Reason.LIMIT_EXCEEDED && /No more tracks/.test(message)));
  const accepted = eve.of('trackPublished').length;
  assert.ok(accepted > 0 && accepted <= 64, `${accepted} accepted`);
  await pour;
  assert.equal(sent, 100_000);
  const grown = resident() - before;
  assert.ok(grown < 64, `the server grew by ${grown} MiB`);
  await undisturbed();
  const seen = await ada.evaluate(() => window.lk.room.remoteParticipants.get('eve').trackPublications.size);
  assert.equal(seen, 0, 'what was never sent is nobody else\'s track');
  // As m-lines: what is longer than a message may be, and what is not.
  for (const count of [100_000, 2_000]) {
    const mallory = await raw('tracks', `mallory ${count}`);
    const lines = Array.from({ length: count }, (_, i) => `m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:${i}\r\na=rtpmap:96 VP8/90000\r\na=sendonly\r\na=rtcp-mux\r\n`);
    const sdp = `v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE ${Array.from({ length: count }, (_, i) => i).join(' ')}\r\n${lines.join('')}`;
    mallory.say('offer', { type: 'offer', sdp });
    await mallory.closed;
    if (count < 100_000) assert.deepEqual(left(mallory), [['STATE_MISMATCH', 'DISCONNECT', false]]);
  }
  await undisturbed();
});

test('descriptions that match nothing end the member that makes them, with a reason', { timeout: 120_000 }, async () => {
  const { undisturbed } = await pair('answers');
  const sdp = readFileSync(new URL('../fixtures/sdp/chromium-publish.sdp', import.meta.url), 'utf8');
  const answers = {
    'nothing': '',
    'no SDP': 'an answer',
    'no m-line': 'v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n',
    'no fingerprint': sdp.replace(/a=fingerprint.*\r?\n/g, ''),
    'no ICE': sdp.replace(/a=ice-(ufrag|pwd).*\r?\n/g, ''),
  };
  for (const [what, text] of Object.entries(answers)) {
    const eve = await raw('answers', `eve, ${what}`);
    await until('it is offered something', 10_000, () => eve.of('offer').length > 0);
    eve.say('answer', { type: 'answer', sdp: text, id: eve.of('offer')[0].id });
    await eve.closed;
    assert.deepEqual(left(eve), [['STATE_MISMATCH', 'DISCONNECT', false]], what);
  }
  // An answer to an offer that was never made is none; one with m-lines that were not offered gives it nothing.
  const eve = await raw('answers', 'eve');
  await until('it is offered something', 10_000, () => eve.of('offer').length > 0);
  eve.say('answer', { type: 'answer', sdp: 'an answer', id: 999 });
  eve.say('answer', { type: 'answer', sdp, id: eve.of('offer')[0].id });
  eve.say('ping', 1n);
  await until('it goes on', 10_000, () => eve.of('pong').length > 0 || eve.of('leave').length > 0);
  assert.equal((await server.room('answers')).sessions.filter(({ state }) => state === 'connected').length, 2, 'those of the browsers');
  for (const offer of ['', 'v=0', sdp.replace(/m=audio \d+/, 'm=audio')]) {
    const carl = await raw('answers', 'carl');
    carl.say('offer', { type: 'offer', sdp: offer });
    await carl.closed;
    assert.deepEqual(left(carl), [['STATE_MISMATCH', 'DISCONNECT', false]], offer);
  }
  await undisturbed();
});

test('the answer waits for a client that makes its offer before it can take an answer, until it says something', { timeout: 60_000 }, async () => {
  const sdp = readFileSync(new URL('../fixtures/sdp/chromium-publish.sdp', import.meta.url), 'utf8');
  const waited = async (sdk, word) => {
    const request = new JoinRequest({ clientInfo: { sdk }, connectionSettings: { autoSubscribe: true }, publisherOffer: { type: 'offer', sdp, id: 1 } });
    const wrapped = new WrappedJoinRequest({ joinRequest: request.toBinary() }).toBinary();
    const client = await raw('early', `${ClientInfo_SDK[sdk]} ${word}`, { query: `&join_request=${Buffer.from(wrapped).toString('base64url')}` });
    if (word) client.say('ping', 1n);
    await until('the answer', 5_000, () => client.of('answer').length === 1);
    const at = (kind) => client.told.find((message) => message.case === kind).at;
    assert.equal(client.told[0].case, 'join');
    return at('answer') - at('join');
  };
  const times = [await waited(ClientInfo_SDK.GO, false), await waited(ClientInfo_SDK.GO, true), await waited(ClientInfo_SDK.JS, false)];
  assert.ok(times[0] >= 95 && times[1] < 90 && times[2] < 90, `${times}`);
});

test('who never reads what it is told is sent away, and costs little until then', { timeout: 120_000 }, async () => {
  const { ada, undisturbed } = await pair('deaf');
  const address = new URL(server.url);
  const socket = net.connect(Number(address.port), address.hostname);
  const jwt = await token('deaf', 'deaf');
  socket.write(`GET /rtc?access_token=${jwt} HTTP/1.1\r\nHost: ${address.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n`);
  socket.pause();
  const there = () => ada.evaluate(() => window.lk.room.remoteParticipants.has('deaf'));
  await until('it is there', 10_000, there);
  const before = resident();
  const chatty = await raw('deaf', 'chatty');
  let said = 0;
  const talk = setInterval(() => {
    for (let i = 0; i < 20; i++) chatty.say('updateMetadata', { metadata: `${said++} ${'x'.repeat(16_000)}` });
  }, 100);
  try {
    await until('it is gone', 40_000, async () => !(await there()), () => `after ${said} updates`);
  } finally {
    clearInterval(talk);
    socket.destroy();
  }
  assert.ok(said < 5_000, `${said}`);
  const grown = resident() - before;
  assert.ok(grown < 96, `the server grew by ${grown} MiB`);
  await undisturbed();
});

test('who never reads its data channel misses what it could have read, and delays nobody', { timeout: 120_000 }, async () => {
  const { ada, bob, undisturbed } = await pair('stuffed');
  const client = path.join(TESTS, 'interop', 'livekit_client.mjs');
  const deaf = start('livekit-deaf', process.execPath, [client, server.url.replace('http', 'ws'), await token('stuffed', 'deaf'), 100]);
  await until('it is there, with its channels', 20_000, () => ada.evaluate(() => window.lk.room.remoteParticipants.get('deaf')?.trackPublications.size === 2));
  await bob.evaluate(() => {
    window.read = { next: 0, latest: 0, wrong: 0 };
    window.lk.room.on('dataReceived', (bytes) => {
      const [number, at] = new TextDecoder().decode(bytes.slice(0, 40)).split(' ').map(Number);
      if (number !== window.read.next) window.read.wrong += 1;
      window.read.next = number + 1;
      window.read.latest = Math.max(window.read.latest, Date.now() - at);
    });
  });
  await pause(1_000);
  const before = resident();
  deaf.child.kill('SIGSTOP');
  // 8 MB, where a megabyte may wait for each.
  const sent = await ada.evaluate(async () => {
    const filler = 'x'.repeat(20_000);
    for (let number = 0; number < 400; number += 1) {
      await window.lk.room.localParticipant.publishData(new TextEncoder().encode(`${number} ${Date.now()} ${filler}`), { reliable: true });
      await new Promise((done) => setTimeout(done, 40));
    }
    return 400;
  });
  await until('the other has read it all', 10_000, async () => (await bob.evaluate(() => window.read)).next === sent, async () => JSON.stringify(await bob.evaluate(() => window.read)));
  const read = await bob.evaluate(() => window.read);
  console.log(`read at the latest after ${read.latest} ms; the server grew by ${resident() - before} MiB`);
  assert.ok(read.wrong === 0 && read.latest < 2_000, JSON.stringify(read));
  assert.ok(resident() - before < 32, `the server grew by ${resident() - before} MiB`);
  await undisturbed();
});

test('a hundred reconnects a second: the last one is there, the others are told why not', { timeout: 120_000 }, async () => {
  const { ada, undisturbed } = await pair('storm');
  const clients = [];
  const [began, COUNT] = [Date.now(), 600];
  for (let number = 0; number < COUNT; number++) {
    clients.push(raw('storm', 'eve'));
    await pause(Math.max(0, began + (number + 1) * 10 - Date.now()));
  }
  const all = await Promise.all(clients);
  const rate = COUNT * 1_000 / (Date.now() - began);
  assert.ok(rate > 50, `${rate} reconnects a second`);
  await until('all others are closed', 20_000, () => all.filter(({ socket }) => socket.readyState === WebSocket.OPEN).length === 1,
    () => `${all.filter(({ socket }) => socket.readyState === WebSocket.OPEN).length} are open`);
  for (const client of all.filter(({ socket }) => socket.readyState !== WebSocket.OPEN)) {
    assert.deepEqual(left(client), [['DUPLICATE_IDENTITY', 'DISCONNECT', false]]);
  }
  assert.deepEqual(await ada.evaluate(() => [...window.lk.room.remoteParticipants.keys()].sort()), ['bob', 'eve']);
  // And of sessions that are not there any more.
  const lost = await Promise.all(Array.from({ length: 100 }, () => raw('storm', 'nobody', { query: '&reconnect=1&sid=PA_unknown' })));
  for (const client of lost) {
    await client.closed;
    assert.deepEqual(left(client), [['STATE_MISMATCH', 'RECONNECT', true]]);
  }
  await undisturbed();
});

test('who joins too often is refused for a while; who is there is told where, and when the server ends', { timeout: 60_000 }, async () => {
  // This machine's loopback is not counted.
  const host = process.env.DISTRIBUTARY_TEST_ADDRESS;
  assert.ok(host, 'no DISTRIBUTARY_TEST_ADDRESS: run this by `tests/run browser`, which makes a network namespace');
  const own = await serve('livekit-joins', { args: ['--dev', '--http-bind', host, '--joins-per-minute', '3', '--room-region', 'somewhere'], host });
  try {
    const clients = [];
    for (const identity of ['a', 'b', 'c']) clients.push(await raw('often', identity, { url: own.url }));
    for (const identity of ['d', 'e']) await assert.rejects(raw('often', identity, { url: own.url }), /429/);
    await until('all are there', 5_000, () => clients.every((client) => client.of('join').length === 1));
    assert.deepEqual(clients.map((client) => client.of('join')[0].serverInfo.region), Array(3).fill('somewhere'));
    await own.stop();
    await Promise.all(clients.map(({ closed }) => closed));
    for (const client of clients) assert.deepEqual(left(client), [['SERVER_SHUTDOWN', 'RECONNECT', true]]);
  } finally {
    await own.stop();
  }
});

test('a token is good for its own room and for what it grants', { timeout: 60_000 }, async () => {
  const rooms = new RoomServiceClient(server.url, 'devkey', 'secret');
  await rooms.createRoom({ name: 'theirs', emptyTimeout: 60 });
  const call = async (method, grants, body) => {
    const jwt = await token('mine', 'x', grants);
    const response = await fetch(`${server.url}/twirp/livekit.RoomService/${method}`, {
      method: 'POST', headers: { authorization: `Bearer ${jwt}`, 'content-type': 'application/json' }, body: JSON.stringify(body),
    });
    const { code, msg } = await response.json();
    return [response.status, code, msg];
  };
  const room = 'theirs';
  for (const [method, body] of Object.entries({
    ListParticipants: { room }, GetParticipant: { room, identity: 'x' }, RemoveParticipant: { room, identity: 'x' },
    MutePublishedTrack: { room, identity: 'x', trackSid: 'TR_x', muted: true }, UpdateParticipant: { room, identity: 'x' },
    UpdateSubscriptions: { room, identity: 'x', trackSids: [], subscribe: true }, SendData: { room, data: '' }, UpdateRoomMetadata: { room, metadata: '' },
  })) {
    const [status, code, text] = await call(method, { roomAdmin: true }, body);
    assert.deepEqual([status, code], [403, 'permission_denied'], `${method}: ${text}`);
    assert.match(text, /mine|theirs/, method);
    const [without, why] = await call(method, { room: 'theirs', roomAdmin: false }, body);
    assert.deepEqual([without, why], [403, 'permission_denied'], method);
  }
  for (const [method, grant] of [['CreateRoom', 'roomCreate'], ['DeleteRoom', 'roomCreate'], ['ListRooms', 'roomList']]) {
    const [status, code, text] = await call(method, { roomAdmin: true }, method === 'ListRooms' ? {} : { name: room, room });
    assert.deepEqual([status, code], [403, 'permission_denied'], method);
    assert.match(text, new RegExp(grant), method);
  }
  assert.equal((await rooms.listRooms(['theirs'])).length, 1);
  for (const where of ['whip', 'whep']) {
    const jwt = await token('mine', 'x');
    const response = await fetch(`${server.url}/${where}/theirs`, { method: 'POST', headers: { authorization: `Bearer ${jwt}`, 'content-type': 'application/sdp' }, body: 'v=0' });
    assert.equal(response.status, 403, where);
    assert.match(await response.text(), /theirs|mine/);
  }
});
