// Recordings go to an S3 server that others made (moto), and are compared there by its vendor's client (boto3): whole, after the store
// was gone for a while, after the server was killed, after the store had forgotten the upload; and never deleted here before.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, publish } from '../browser/browsers.mjs';
import { OUT, TESTS, freeTcpPort, pause, serve, until } from '../browser/server.mjs';
import { VENV_PYTHON, endClients, start } from './clients.mjs';

const LOADGEN = path.resolve(TESTS, '..', 'target', 'release', 'loadgen');
const MIB = 1 << 20;

const root = mkdtempSync(path.join(tmpdir(), 'distributary-storage-'));
let s3;
let server;
before(async () => {
  const [port, control, tls] = [await freeTcpPort(), await freeTcpPort(), await freeTcpPort()];
  const [certificate, key] = [path.join(root, 'cert.pem'), path.join(root, 'key.pem')];
  execFileSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=127.0.0.1',
    '-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE', '-keyout', key, '-out', certificate,
  ], { stdio: 'pipe' });
  const client = start('storage-s3', VENV_PYTHON, [path.join(TESTS, 'interop', 's3_server.py'), port, control, tls, certificate, key]);
  await until('the S3 server has a user', 60_000, () => client.ended || client.output.includes('\n'));
  assert.ok(!client.ended, `see ${path.join(OUT, 'storage-s3.log')}`);
  const ask = async (command) => {
    const response = await fetch(`http://127.0.0.1:${control}${command}`, { signal: AbortSignal.timeout(60_000) });
    const answer = await response.json();
    assert.equal(response.status, 200, `${command}: ${answer}`);
    return answer;
  };
  s3 = { client, certificate, secure: `https://127.0.0.1:${tls}`, endpoint: `http://127.0.0.1:${port}`, ...JSON.parse(client.output.split('\n')[0]), ask };
});
afterEach(closePages);
afterEach(async () => {
  await server?.stop();
  server = undefined;
  await s3.ask('/start');
  await s3.ask('/slow?ms=0');
});
after(async () => {
  await endClients();
  rmSync(root, { recursive: true, force: true });
});

/** Starts a server that uploads into a bucket; `more` goes over the section of the store, `inside` is what runs it. */
async function storing(name, bucket, more = {}, inside = []) {
  const folder = path.join(root, bucket);
  const section = { bucket, endpoint: s3.endpoint, access_key_id: s3.id, secret_access_key: s3.secret, prefix: 'of/tests', ...more };
  const lines = Object.entries(section).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  const config = path.join(root, `${bucket}.toml`);
  writeFileSync(config, `[record]\nfolder = ${JSON.stringify(folder)}\n\n[record.s3]\n${lines.join('\n')}\n`);
  server = await serve(name, { args: ['--dev', '--config', config], inside });
  return folder;
}

const log = (name) => readFileSync(path.join(OUT, `${name}.log`), 'utf8');
const listed = async () => JSON.parse(await server.get('/api/v1/recordings')).recordings;
const sha256 = (file) => createHash('sha256').update(readFileSync(file)).digest('hex');
const files = (folder) => (existsSync(folder) ? readdirSync(folder, { recursive: true }) : [])
  .filter((name) => /\.(webm|mkv|jsonl)$/.test(name) && !name.includes('.part.'));

/** A recording that ended before the server started, as one that it did not come to upload. */
function earlier(folder, room, bytes) {
  mkdirSync(path.join(folder, room), { recursive: true });
  const name = path.join(folder, room, '20261129T120000-000Z-abcdef-1');
  writeFileSync(`${name}.webm`, randomBytes(bytes));
  const line = (event) => JSON.stringify({ event, room, session: 'abcdef', unix_ms: 1_796_040_000_000, at_ms: 0, time: '2026-11-29T12:00:00.000Z' });
  writeFileSync(`${name}.jsonl`, `${line('start')}\n${line('end')}\n`);
  return name;
}

/** What the bucket has to have of the files in a folder, by name. */
const expected = (folder, names) => Object.fromEntries(names.map((name) => [`of/tests/${name}`, sha256(path.join(folder, name))]));

async function arrived(bucket, wanted, ms) {
  let there;
  await until(`all is in ${bucket}`, ms, async () => {
    there = Object.fromEntries((await s3.ask(`/objects?bucket=${bucket}`)).map(({ key, sha256: sum }) => [key, sum]));
    return Object.keys(wanted).every((key) => key in there);
  }, () => JSON.stringify({ wanted, there }));
  assert.deepEqual(there, wanted);
}

/** How often each part was taken. */
async function parts(bucket) {
  const taken = (await s3.ask('/requests')).filter(({ method, path: at, query, status }) => (
    method === 'PUT' && at.startsWith(`/${bucket}/`) && query.includes('partNumber') && status === 200));
  const counts = {};
  for (const { query } of taken) counts[/partNumber=(\d+)/.exec(query)[1]] = (counts[/partNumber=(\d+)/.exec(query)[1]] ?? 0) + 1;
  return counts;
}

test('what Chromium published is in the bucket, byte for byte, with its events, and stays here', { timeout: 90_000 }, async () => {
  await s3.ask('/bucket?name=kept');
  const folder = await storing('storage-kept', 'kept');
  const browser = await chromium();
  try {
    const publisher = await publish(browser, server, 'a%2Fb', { codec: 'VP8', width: 320, height: 180, frameRate: 15 });
    await pause(4_000);
    assert.equal(await publisher.evaluate(() => window.client.leave()), 200);
    await until('it is uploaded', 20_000, async () => (await listed()).some(({ upload }) => upload?.state === 'uploaded'), async () => log('storage-kept'));
  } finally {
    await browser.close();
  }
  const names = files(folder);
  assert.deepEqual(names.map((name) => path.extname(name)).sort(), ['.jsonl', '.webm'], `${names}`);
  assert.ok(names.every((name) => name.startsWith('a%2fb/')), `${names}`);
  await arrived('kept', expected(folder, names), 1_000);
  const types = (await s3.ask('/objects?bucket=kept')).map(({ type }) => type).sort();
  assert.deepEqual(types, ['application/jsonl', 'video/webm']);
  const [{ upload, bytes }] = await listed();
  const url = `${s3.endpoint}/kept/of/tests/${names.find((name) => name.endsWith('.webm'))}`;
  assert.deepEqual(upload, { state: 'uploaded', bytes, error: null, url });
  assert.equal(await server.metric('distributary_uploaded_recordings_total'), 1);
  assert.equal(await server.metric('distributary_failed_uploads_total'), 0);
  assert.ok(await server.metric('distributary_uploaded_bytes_total') > bytes, 'the events count too');
  // What is confirmed is known to be at the next start.
  const before = (await s3.ask('/requests')).length;
  await server.stop();
  server = await serve('storage-kept-again', { args: ['--dev', '--config', path.join(root, 'kept.toml')] });
  await pause(3_000);
  assert.equal((await s3.ask('/requests')).filter(({ method }, index) => index >= before && method === 'PUT').length, 0);
});

test('a store that is gone in the middle of an upload gets the rest when it is back, and nothing is deleted before', { timeout: 180_000 }, async () => {
  await s3.ask('/bucket?name=stopped');
  await s3.ask('/slow?ms=1000');
  const folder = await storing('storage-stopped', 'stopped', { keep_local: false });
  const load = start('storage-load', LOADGEN, [
    'run', '--url', server.url, '--server-pid', server.child.pid, '--room', 'stopped', '--viewers', 1, '--sample', 1, '--seconds', 8, '--settle', 0,
    '--bitrate', 30_000_000,
  ]);
  await load.result();
  await until('one part is there', 60_000, async () => '1' in await parts('stopped'), () => log('storage-stopped'));
  await s3.ask('/stop');
  const taken = await parts('stopped');
  const names = files(folder);
  assert.deepEqual(names.map((name) => path.extname(name)).sort(), ['.jsonl', path.extname(names.find((name) => !name.endsWith('.jsonl')))].sort());
  const wanted = expected(folder, names);
  await until('it is known to have failed', 60_000, async () => /refused/.test((await listed())[0]?.upload?.error), () => log('storage-stopped'));
  const [{ upload, bytes }] = await listed();
  assert.equal(upload.state, 'failed');
  assert.ok(bytes > 17 * MIB && upload.bytes >= 8 * MIB && upload.bytes < bytes, JSON.stringify({ upload, bytes }));
  assert.match(upload.error, /^the store at http:\S+ cannot be used: .*Connection refused/);
  assert.match(log('storage-stopped'), /upload failed; the file is kept/);
  await pause(3_000);
  assert.deepEqual(files(folder), names, 'all is still here');
  await s3.ask('/start');
  await arrived('stopped', wanted, 90_000);
  const all = await parts('stopped');
  assert.ok(Object.keys(taken).every((part) => all[part] === 1), `no part that was taken is sent again: ${JSON.stringify({ taken, all })}`);
  await until('it is deleted here', 5_000, () => files(folder).length === 0, () => `${files(folder)}`);
  assert.deepEqual(readdirSync(path.join(folder, 'stopped')), [], 'its journal too');
  assert.match(log('storage-stopped'), /recording uploaded/);
});

test('a server that is killed in the middle of an upload goes on with it at its next start', { timeout: 120_000 }, async () => {
  await s3.ask('/bucket?name=killed');
  await s3.ask('/slow?ms=1000');
  const name = earlier(path.join(root, 'killed'), 'lesson', 27 * MIB);
  const folder = await storing('storage-killed', 'killed', { keep_local: false });
  const wanted = expected(folder, files(folder));
  assert.equal(Object.keys(wanted).length, 2);
  await until('two parts are there', 30_000, async () => '2' in await parts('killed'), () => log('storage-killed'));
  // The third is on its way.
  await pause(300);
  server.child.kill('SIGKILL');
  await server.exited;
  await pause(1_500);
  const journal = JSON.parse(readFileSync(`${name}.upload`, 'utf8'));
  assert.equal(journal.media.parts.length, 2, JSON.stringify(journal));
  await storing('storage-killed-again', 'killed', { keep_local: false });
  await arrived('killed', wanted, 60_000);
  const { 1: first, 2: second, 4: last } = await parts('killed');
  assert.deepEqual([first, second, last], [1, 1, 1]);
  await until('it is deleted here', 5_000, () => files(folder).length === 0);
});

test('an upload that the store has given up begins anew', { timeout: 120_000 }, async () => {
  await s3.ask('/bucket?name=forgotten');
  await s3.ask('/slow?ms=500');
  const name = earlier(path.join(root, 'forgotten'), 'lesson', 20 * MIB);
  const folder = await storing('storage-forgotten', 'forgotten');
  await until('a part is there', 30_000, async () => '1' in await parts('forgotten'));
  await server.stop();
  assert.equal(await s3.ask('/abort?bucket=forgotten'), 1);
  await storing('storage-forgotten-again', 'forgotten');
  await arrived('forgotten', expected(folder, files(folder)), 30_000);
  await until('it is marked', 5_000, () => existsSync(`${name}.uploaded`));
  assert.ok(!existsSync(`${name}.upload`) && files(folder).length === 2);
  assert.equal((await parts('forgotten'))[1], 2);
});

test('a bucket that does not exist is named, and gets the file once it does', { timeout: 60_000 }, async () => {
  const name = earlier(path.join(root, 'unmade'), 'lesson', 9 * MIB);
  const folder = await storing('storage-unmade', 'unmade', { keep_local: false });
  await until('that is said', 20_000, () => log('storage-unmade').includes('there is no bucket'), () => log('storage-unmade'));
  assert.match(log('storage-unmade'), /there is no bucket .*unmade.* at http:.*NoSuchBucket.*make it, or correct record\.s3\.bucket/);
  const [{ upload }] = await listed();
  assert.equal(upload.state, 'failed');
  assert.match(upload.error, /there is no bucket/);
  assert.ok(await server.metric('distributary_failed_uploads_total') >= 1);
  const wanted = expected(folder, files(folder));
  assert.equal(Object.keys(wanted).length, 2, 'both files are here');
  await s3.ask('/bucket?name=unmade');
  await arrived('unmade', wanted, 40_000);
  await until('it is deleted here', 5_000, () => !existsSync(`${name}.webm`));
});

test('wrong credentials are told apart, and no file goes', { timeout: 60_000 }, async () => {
  await s3.ask('/bucket?name=refused');
  earlier(path.join(root, 'refused'), 'lesson', MIB);
  for (const [name, more, code] of [
    ['storage-refused-id', { access_key_id: 'AKIAIOSFODNN7EXAMPLE' }, 'InvalidAccessKeyId'],
    ['storage-refused-secret', { secret_access_key: 'not-the-secret' }, 'SignatureDoesNotMatch'],
  ]) {
    const folder = await storing(name, 'refused', { keep_local: false, ...more });
    await until('that is said', 20_000, () => log(name).includes('refuses'), () => log(name));
    assert.match(log(name), new RegExp(`refuses \\(${code}: .*check record\\.s3\\.access_key_id and secret_access_key`));
    assert.ok(!log(name).includes('not-the-secret'), 'the secret is not in the log');
    await pause(2_500);
    assert.equal(files(folder).length, 2, 'both files are here');
    const [{ upload }] = await listed();
    assert.equal(upload.state, 'failed');
    await server.stop();
  }
  assert.deepEqual(await s3.ask('/objects?bucket=refused'), []);
});

test('an egress says what its file is called in the store', { timeout: 60_000 }, async () => {
  await s3.ask('/bucket?name=named');
  const folder = await storing('storage-named', 'named', { keep_local: false });
  const call = async (method, body) => {
    const response = await fetch(`${server.url}/twirp/livekit.Egress/${method}`, {
      method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' },
    });
    const answer = await response.json();
    assert.equal(response.status, 200, JSON.stringify(answer));
    return answer;
  };
  const load = start('storage-named-load', LOADGEN, [
    'run', '--url', server.url, '--server-pid', server.child.pid, '--room', 'named', '--viewers', 1, '--sample', 1, '--seconds', 8, '--settle', 0,
    '--bitrate', 400_000,
  ]);
  let publisher;
  await until('somebody publishes', 10_000, async () => {
    publisher = (await server.room('named'))?.sessions.find(({ purpose, state }) => purpose === 'publish' && state === 'connected');
    return publisher;
  });
  const { egressId } = await call('StartParticipantEgress', {
    roomName: 'named', identity: publisher.id, fileOutputs: [{ filepath: 'shows/{room_name}.webm' }],
  });
  await load.result();
  let info;
  await until('the egress is complete', 15_000, async () => {
    [info] = (await call('ListEgress', { egressId })).items;
    return info.status === 'EGRESS_COMPLETE';
  }, () => JSON.stringify(info));
  const [{ filename, location, size }] = info.fileResults;
  const end = /\.\w+$/.exec(filename)[0];
  assert.deepEqual([filename, location], [`of/tests/shows/named${end}`, `${s3.endpoint}/named/of/tests/shows/named${end}`]);
  let there;
  await until('it is there', 15_000, async () => {
    there = await s3.ask('/objects?bucket=named');
    return there.length === 4;
  }, () => log('storage-named'));
  // And what the server's own rule records beside it, under its own name.
  const [own, shows] = [false, true].map((is) => there.map(({ key }) => key).filter((key) => key.startsWith('of/tests/shows/') === is).sort());
  assert.deepEqual(shows, ['of/tests/shows/named.jsonl', filename].sort());
  assert.ok(own.length === 2 && own.every((key) => key.startsWith('of/tests/named/') && !key.includes(egressId)), `${own}`);
  assert.equal(there.find(({ key }) => key === filename).bytes, Number(size));
  await until('it is deleted here', 5_000, () => readdirSync(path.join(folder, 'named')).length === 0, () => `${readdirSync(path.join(folder, 'named'))}`);
});

test('over TLS a store is trusted by the certificates of the host, and no other', { timeout: 60_000 }, async () => {
  await s3.ask('/bucket?name=secure');
  earlier(path.join(root, 'secure'), 'lesson', 9 * MIB);
  const folder = await storing('storage-untrusted', 'secure', { endpoint: s3.secure });
  await until('it is not trusted', 20_000, () => /cannot be used: .*certificate/i.test(log('storage-untrusted')), () => log('storage-untrusted'));
  await server.stop();
  assert.deepEqual(await s3.ask('/objects?bucket=secure'), []);
  await storing('storage-secure', 'secure', { endpoint: s3.secure }, ['env', `SSL_CERT_FILE=${s3.certificate}`]);
  await arrived('secure', expected(folder, files(folder)), 30_000);
});
