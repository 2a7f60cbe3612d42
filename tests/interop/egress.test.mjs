// LiveKit's server SDK has what Chromium publishes recorded: by participant and by track, listed and stopped, told by webhooks that its
// WebhookReceiver verifies; what cannot be done here is refused with Twirp's errors.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import http from 'node:http';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import {
  AccessToken, DirectFileOutput, EgressClient, EgressStatus, EncodedFileOutput, EncodedFileType, EncodingOptionsPreset, S3Upload, StreamOutput,
  StreamProtocol, WebhookReceiver,
} from 'livekit-server-sdk';
import { EgressInfo, ListEgressRequest, ListEgressResponse } from '@livekit/protocol';
import { chromium, closePages, publish } from '../browser/browsers.mjs';
import { KEY, OUT, SECRET, TESTS, freeTcpPort, pause, serve, until } from '../browser/server.mjs';
import { endClients, start } from './clients.mjs';

const OTHER = ['other-key', 'another-secret-of-the-tests-32-bytes'];
const root = mkdtempSync(path.join(tmpdir(), 'distributary-egress-'));
const folder = path.join(root, 'recordings');
let server;
let browser;
let client;
let hooks;

/** An application that is told: it refuses the first two events, and keeps what its SDK has verified. */
async function application(port) {
  const receivers = Object.fromEntries([[KEY, SECRET], OTHER].map(([key, secret]) => [key, new WebhookReceiver(key, secret)]));
  const state = { events: [], refused: 0, others: 0, wrong: [] };
  const listener = http.createServer(async (request, response) => {
    let body = '';
    for await (const bytes of request) body += bytes;
    if (request.url === '/main' && state.refused < 2) {
      state.refused += 1;
      return response.writeHead(500).end();
    }
    const key = request.url === '/main' ? KEY : OTHER[0];
    try {
      const event = await receivers[key].receive(body, request.headers.authorization);
      assert.equal(request.headers['content-type'], 'application/webhook+json');
      // What is told of rooms, participants and tracks is another test's matter.
      if (!event.egressInfo) state.others += 1;
      else state.events.push({ to: request.url, event: event.event, id: event.id, at: Number(event.createdAt), info: event.egressInfo });
    } catch (error) {
      state.wrong.push(String(error));
    }
    return response.writeHead(200).end();
  });
  await new Promise((done) => listener.listen(port, '127.0.0.1', done));
  return { ...state, state, close: () => listener.close() };
}

before(async () => {
  const port = await freeTcpPort();
  hooks = await application(port);
  const config = path.join(root, 'egress.toml');
  writeFileSync(config, `bind = "127.0.0.1"\n[record]\nfolder = ${JSON.stringify(folder)}\nrooms = []\n`
    + `[webhook]\nurls = ["http://127.0.0.1:${port}/main"]\napi_key = "${KEY}"\n[keys]\n${KEY} = "${SECRET}"\n${OTHER[0]} = "${OTHER[1]}"\n`);
  hooks.port = port;
  server = await serve('egress', { args: ['--config', config] });
  browser = await chromium();
  client = new EgressClient(server.url, KEY, SECRET);
});
afterEach(closePages);
afterEach(endClients);
after(async () => {
  await browser?.close();
  await server?.stop();
  hooks?.close();
  rmSync(root, { recursive: true, force: true });
});

async function participant(room, identity) {
  const token = new AccessToken(KEY, SECRET, { identity });
  token.addGrant({ room, roomJoin: true });
  const page = await publish(browser, server, room, { token: await token.toJwt(), codec: 'VP8', width: 320, height: 180, frameRate: 15 });
  await until(`${identity} publishes`, 20_000, async () => (await sessions(room))[0]?.state === 'connected');
  return page;
}

async function sessions(room) {
  const token = new AccessToken(KEY, SECRET);
  token.addGrant({ roomList: true });
  const response = await fetch(`${server.url}/api/v1/rooms`, { headers: { authorization: `Bearer ${await token.toJwt()}` } });
  return (await response.json()).rooms.find((found) => found.room === room)?.sessions ?? [];
}

const listed = async (egressId) => (await client.listEgress({ egressId }))[0];
const log = () => readFileSync(path.join(OUT, 'egress.log'), 'utf8');

function probe(file) {
  const args = ['-v', 'error', '-of', 'json', '-show_streams', '-show_format', file];
  const { status, stdout, stderr } = spawnSync('ffprobe', args, { encoding: 'utf8', timeout: 30_000 });
  assert.equal(status, 0, stderr);
  const { streams, format } = JSON.parse(stdout);
  return { codecs: streams.map((stream) => stream.codec_name).sort(), seconds: Number(format.duration) };
}

/** The error that a call ends in. */
async function refused(call) {
  try {
    await call;
  } catch (error) {
    return { status: error.status, code: error.code, message: error.message };
  }
  return assert.fail('it was not refused');
}

test('a participant is recorded until the egress is stopped, and the application is told', { timeout: 120_000 }, async () => {
  await participant('stage', 'ada');
  const output = new EncodedFileOutput({ filepath: 'lessons/{room_name}-{publisher_identity}.mp4' });
  const webhooks = [{ url: `http://127.0.0.1:${hooks.port}/own`, signingKey: OTHER[0] }];
  const begun = await client.startParticipantEgress('stage', 'ada', { file: output }, { webhooks });
  assert.match(begun.egressId, /^EG_\w{16}$/);
  assert.deepEqual([begun.roomName, begun.status, begun.request.case], ['stage', EgressStatus.EGRESS_STARTING, 'participant']);
  await until('it is active', 15_000, async () => (await listed(begun.egressId)).status === EgressStatus.EGRESS_ACTIVE, log);
  const [activeOnly, otherRoom] = [await client.listEgress({ active: true }), await client.listEgress({ roomName: 'another' })];
  assert.deepEqual([activeOnly.map((info) => info.egressId), otherRoom], [[begun.egressId], []]);
  await pause(5_000);
  const stopped = await client.stopEgress(begun.egressId);
  assert.equal(stopped.status, EgressStatus.EGRESS_ENDING);
  await until('it is complete', 15_000, async () => (await listed(begun.egressId)).status === EgressStatus.EGRESS_COMPLETE, log);
  const ended = await listed(begun.egressId);
  assert.equal(ended.fileResults.length, 1);
  const [file] = ended.fileResults;
  assert.deepEqual([file.filename, file.location], ['lessons/stage-ada.webm', path.join(folder, 'lessons/stage-ada.webm')]);
  const { codecs, seconds } = probe(file.location);
  assert.deepEqual(codecs, ['opus', 'vp8']);
  assert.ok(seconds > 4 && Math.abs(seconds - Number(file.duration) / 1e9) < 0.2, `${seconds} s, and ${file.duration} ns are told`);
  assert.equal(readFileSync(file.location).length, Number(file.size));
  assert.ok(ended.endedAt > ended.startedAt && Math.abs(Number(ended.startedAt) / 1e6 - Date.now()) < 120_000);
  assert.equal((await sessions('stage')).length, 1, 'the publisher is still there');
  assert.equal((await sessions('stage'))[0].identity, 'ada');

  await until('the application is told of its end', 20_000, () => (
    ['/main', '/own'].every((to) => hooks.events.some((event) => event.to === to && event.event === 'egress_ended'))), () => JSON.stringify(hooks.wrong));
  for (const to of ['/main', '/own']) {
    const events = hooks.events.filter((event) => event.to === to);
    assert.deepEqual(events.map(({ event }) => event), ['egress_started', 'egress_updated', 'egress_updated', 'egress_ended'], to);
    assert.ok(events.every(({ info, id, at }) => info.egressId === begun.egressId && id.startsWith('EV_') && Math.abs(at - Date.now() / 1000) < 120));
    assert.equal(events.at(-1).info.fileResults[0].filename, file.filename);
  }
  assert.deepEqual([hooks.wrong, hooks.state.refused], [[], 2]);
  assert.ok(hooks.state.others > 0);
  assert.equal(await server.metric('distributary_sent_webhooks_total'), 8 + hooks.state.others);
  assert.equal(await server.metric('distributary_lost_webhooks_total'), 0);
});

test('an egress of tracks ends with its publisher, and of a publisher that is there again nothing more is recorded', { timeout: 120_000 }, async () => {
  const page = await participant('tracks', 'bob');
  const [{ id, tracks }] = await sessions('tracks');
  const mid = (kind) => `${id}:${tracks.find((track) => track.kind === kind).mid}`;
  const composite = await client.startTrackCompositeEgress('tracks', new EncodedFileOutput({}), {
    audioTrackId: mid('audio'), videoTrackId: mid('video'),
  });
  const single = await client.startTrackEgress('tracks', new DirectFileOutput({ filepath: 'one/{track_id}' }), mid('video'));
  await until('both are active', 15_000, async () => (
    (await client.listEgress({ roomName: 'tracks', active: true })).every(({ status }) => status === EgressStatus.EGRESS_ACTIVE)), log);
  await pause(2_000);
  assert.equal((await client.stopEgress(single.egressId)).status, EgressStatus.EGRESS_ENDING);
  await pause(2_000);
  assert.equal((await listed(composite.egressId)).status, EgressStatus.EGRESS_ACTIVE, 'the other goes on');
  assert.equal(await page.evaluate(() => window.client.leave()), 200);
  await until('both are complete', 15_000, async () => (await client.listEgress({ roomName: 'tracks' })).every(({ status }) => status === EgressStatus.EGRESS_COMPLETE), log);
  const results = (await client.listEgress({ roomName: 'tracks' })).map(({ egressId, fileResults }) => [egressId, fileResults]);
  assert.deepEqual(results.map(([, files]) => files.length), [1, 1]);
  const of = Object.fromEntries(results.map(([egressId, [file]]) => [egressId, file]));
  assert.equal(of[single.egressId].filename, `one/${mid('video')}.webm`);
  assert.match(of[composite.egressId].filename, /^tracks\/\w+-\w+-[\w-]+\.webm$/);
  assert.deepEqual([composite, single].map(({ egressId }) => probe(of[egressId].location).codecs), [['opus', 'vp8'], ['vp8']]);
  assert.ok(probe(of[composite.egressId].location).seconds > probe(of[single.egressId].location).seconds + 1, 'each ends when it is stopped');
  await participant('tracks', 'bob');
  await pause(2_500);
  const token = new AccessToken(KEY, SECRET);
  token.addGrant({ roomRecord: true });
  const response = await fetch(`${server.url}/api/v1/recordings?room=tracks`, { headers: { authorization: `Bearer ${await token.toJwt()}` } });
  assert.equal((await response.json()).recordings.length, 2);
});

test('of a LiveKit member each egress has what it was asked for, all at a time', { timeout: 120_000 }, async () => {
  const token = new AccessToken(KEY, SECRET, { identity: 'node' });
  token.addGrant({ room: 'member', roomJoin: true });
  start('egress-node', process.execPath, [
    path.join(TESTS, 'interop', 'livekit_client.mjs'), server.url.replace('http', 'ws'), await token.toJwt(), 40,
  ]);
  let tracks = [];
  await until('it publishes both', 30_000, async () => {
    tracks = (await sessions('member')).flatMap((session) => session.tracks).filter(({ direction, sid }) => direction === 'in' && sid);
    return tracks.length === 2;
  });
  const sid = (kind) => tracks.find((track) => track.kind === kind).sid;
  const begun = {
    sound: await client.startTrackEgress('member', new DirectFileOutput({ filepath: 'only/sound' }), sid('audio')),
    picture: await client.startTrackEgress('member', new DirectFileOutput({ filepath: 'only/picture' }), sid('video')),
    all: await client.startParticipantEgress('member', 'node', { file: new EncodedFileOutput({ filepath: 'all' }) }),
    both: await client.startTrackCompositeEgress('member', new EncodedFileOutput({}), { audioTrackId: sid('audio'), videoTrackId: sid('video') }),
    again: await client.startTrackEgress('member', new DirectFileOutput({}), sid('audio')),
  };
  const active = async () => (await client.listEgress({ roomName: 'member', active: true })).filter(({ status }) => status === EgressStatus.EGRESS_ACTIVE).length;
  await until('all are active', 20_000, async () => (await active()) === 5, log);
  await pause(3_000);
  // One after the other is stopped, and the rest goes on.
  for (const [count, name] of Object.keys(begun).entries()) {
    await client.stopEgress(begun[name].egressId);
    await until(`${name} is complete`, 15_000, async () => (await listed(begun[name].egressId)).status === EgressStatus.EGRESS_COMPLETE, log);
    assert.equal(await active(), 4 - count);
  }
  const results = {};
  for (const [name, { egressId }] of Object.entries(begun)) {
    const { fileResults, error } = await listed(egressId);
    assert.deepEqual([fileResults.length, error], [1, ''], name);
    results[name] = { ...probe(fileResults[0].location), extension: path.extname(fileResults[0].location) };
  }
  console.log(JSON.stringify(results));
  const codecs = Object.fromEntries(Object.entries(results).map(([name, result]) => [name, [...result.codecs, result.extension].join(' ')]));
  assert.deepEqual(codecs, { sound: 'opus .ogg', picture: 'vp8 .webm', all: 'opus vp8 .webm', both: 'opus vp8 .webm', again: 'opus .ogg' });
  assert.ok(results.again.seconds > results.sound.seconds + 1, 'each ends when it is stopped');
  assert.ok(Object.values(results).every(({ seconds }) => seconds > 2.5));
});

test('what cannot be done is refused with a code and a reason', { timeout: 60_000 }, async () => {
  await participant('refusals', 'eve');
  const file = () => ({ file: new EncodedFileOutput({}) });
  const participantWith = (output, options) => client.startParticipantEgress('refusals', 'eve', output, options);
  for (const [call, status, code, message] of [
    [() => client.startParticipantEgress('nobody', 'eve', file()), 404, 'not_found', /nobody in room "nobody"/],
    [() => client.startParticipantEgress('refusals', 'adam', file()), 404, 'not_found', /publishes as "adam"/],
    [() => client.startTrackEgress('refusals', new DirectFileOutput({}), 'TR_x'), 404, 'not_found', /publishes TR_x/],
    [() => client.startTrackEgress('refusals', 'ws://127.0.0.1/x', 'TR_x'), 400, 'invalid_argument', /a WebSocket is no output/],
    [() => participantWith({ stream: new StreamOutput({ protocol: StreamProtocol.RTMP, urls: ['rtmp://x/y'] }) }), 400, 'invalid_argument', /a stream is no output/],
    [() => participantWith({ file: new EncodedFileOutput({ filepath: '../x' }) }), 400, 'invalid_argument', /begins with a dot/],
    [() => participantWith({ file: new EncodedFileOutput({ fileType: EncodedFileType.MP4 }) }), 400, 'invalid_argument', /VP8.*WebM/],
    [() => participantWith({ file: new EncodedFileOutput({ fileType: EncodedFileType.OGG }) }), 400, 'invalid_argument', /record\.format/],
    [() => participantWith({ file: new EncodedFileOutput({ output: { case: 's3', value: new S3Upload({ bucket: 'b' }) } }) }), 400, 'invalid_argument', /record\.s3/],
    [() => participantWith(file(), { encodingOptions: EncodingOptionsPreset.H264_1080P_30 }), 400, 'invalid_argument', /leave them out/],
    [() => participantWith(file(), { webhooks: [{ url: 'http://127.0.0.1:1/', signingKey: 'nobodys' }] }), 400, 'invalid_argument', /no API key/],
    [() => client.startRoomCompositeEgress('refusals', file()), 501, 'unimplemented', /without a browser/],
    [() => client.startWebEgress('https://example.org', file()), 501, 'unimplemented', /without a browser/],
    [() => client.stopEgress('EG_none'), 404, 'not_found', /no egress "EG_none"/],
    [() => client.updateLayout('EG_none', 'grid'), 404, 'not_found', /no egress/],
    [() => new EgressClient(server.url, KEY, 'wrong').listEgress(), 401, 'unauthenticated', /signature/],
    [() => new EgressClient(server.url, 'nobody', SECRET).listEgress(), 401, 'unauthenticated', /no API key/],
  ]) {
    const found = await refused(call());
    assert.deepEqual([found.status, found.code], [status, code], JSON.stringify(found));
    assert.match(found.message, message);
  }
  const begun = await participantWith(file());
  assert.equal((await refused(client.updateLayout(begun.egressId, 'grid'))).code, 'failed_precondition');
  assert.equal((await refused(client.updateStream(begun.egressId, ['rtmp://x/y']))).code, 'failed_precondition');
  await client.stopEgress(begun.egressId);
  assert.equal((await refused(client.stopEgress(begun.egressId))).code, 'failed_precondition');
  await until('it has ended', 15_000, async () => (await listed(begun.egressId)).endedAt > 0);
});

test('tokens without roomRecord may nothing; protobuf is spoken as well', { timeout: 30_000 }, async () => {
  const call = async (grants, body, type) => {
    const token = new AccessToken(KEY, SECRET);
    token.addGrant(grants);
    return fetch(`${server.url}/twirp/livekit.Egress/ListEgress`, {
      method: 'POST', body, headers: { 'content-type': type, authorization: `Bearer ${await token.toJwt()}` },
    });
  };
  const denied = await call({ roomList: true, roomAdmin: true, room: 'x' }, '{}', 'application/json');
  assert.deepEqual([denied.status, (await denied.json()).code], [403, 'permission_denied']);
  const answer = await call({ roomRecord: true }, new ListEgressRequest({ roomName: 'stage' }).toBinary(), 'application/protobuf');
  assert.deepEqual([answer.status, answer.headers.get('content-type')], [200, 'application/protobuf']);
  const { items } = ListEgressResponse.fromBinary(new Uint8Array(await answer.arrayBuffer()));
  assert.ok(items.length === 1 && items[0] instanceof EgressInfo && items[0].roomName === 'stage', JSON.stringify(items));
  const bad = await fetch(`${server.url}/twirp/livekit.Egress/Nonsense`, { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } });
  assert.equal(bad.status, 401);
  const unknown = await call({ roomRecord: true }, '{', 'application/json');
  assert.deepEqual([unknown.status, (await unknown.json()).code], [400, 'malformed']);
  assert.ok(existsSync(folder));
});
