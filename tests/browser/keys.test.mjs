// What is renewed while the server runs: API keys and the certificate, when their files have changed; and tokens, of members who stay longer than
// those are good for with which they came.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, test } from 'node:test';
import tls from 'node:tls';
import { AccessToken, RoomServiceClient, TrackSource } from 'livekit-server-sdk';
import { chromium, closePages, open } from './browsers.mjs';
import { join, load } from './sdk.mjs';
import { BINARY, OUT, configWithKeys, freeTcpPort, pause, serve, until } from './server.mjs';

const SECRETS = { first: 'the-first-secret-of-32-bytes-or-more', second: 'the-second-secret-of-32-bytes-or-more' };

const running = [];
let browser;
afterEach(closePages);
after(async () => {
  await browser?.close();
  for (const server of running) await server.stop();
});

/** A certificate for a name, and its key. */
function certificate(name) {
  const [key, cert] = ['key', 'cert'].map((part) => path.join(OUT, `reload-${part}.pem`));
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', `/CN=${name}`, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { key, cert };
}

/** The name in the certificate that a server shows. */
function shown(port) {
  return new Promise((done, fail) => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => {
      done(socket.getPeerCertificate().subject.CN);
      socket.end();
    });
    socket.once('error', fail);
  });
}

test('API keys are read again at SIGHUP, and bad ones change nothing', { timeout: 60_000 }, async () => {
  const config = configWithKeys('reload');
  const write = (keys) => writeFileSync(config, `bind = "127.0.0.1"\n\n[keys]\n${Object.entries(keys).map(([key, secret]) => `${key} = "${secret}"\n`).join('')}`);
  write({ first: SECRETS.first });
  const server = await serve('keys', { args: ['--config', config] });
  running.push(server);
  const accepted = (key) => new RoomServiceClient(server.url, key, SECRETS[key]).listRooms().then(() => true, (error) => {
    assert.equal(error.status, 401, `${error}`);
    return false;
  });
  const state = async () => [await accepted('first'), await accepted('second')];
  assert.deepEqual(await state(), [true, false]);
  write({ second: SECRETS.second });
  assert.deepEqual(await state(), [true, false], 'not before it is asked to');
  server.child.kill('SIGHUP');
  await until('the new key, and not the old one', 5_000, async () => JSON.stringify(await state()) === '[false,true]');
  write({ first: 'short' });
  server.child.kill('SIGHUP');
  await until('why not', 5_000, () => /stay as they were: .*reload\.toml.* at least 32 bytes/.test(readFileSync(path.join(OUT, 'keys.log'), 'utf8')));
  assert.deepEqual(await state(), [false, true]);
});

test('the certificate is read again at SIGHUP, and a bad one changes nothing', { timeout: 60_000 }, async () => {
  const { key, cert } = certificate('before.example.org');
  const port = await freeTcpPort();
  const args = ['--dev', '--http-port', port, '--media-port', 0, '--tcp-port', 0, '--tls-cert', cert, '--tls-key', key].map(String);
  const server = spawn(BINARY, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  try {
    let log = '';
    server.stderr.on('data', (bytes) => { log += bytes; });
    await until('the server shows a certificate', 10_000, () => shown(port).then((name) => name === 'before.example.org', () => false), () => log);
    certificate('after.example.org');
    assert.equal(await shown(port), 'before.example.org', 'not before it is asked to');
    server.kill('SIGHUP');
    await until('the new certificate', 5_000, async () => await shown(port) === 'after.example.org', () => log);
    writeFileSync(cert, 'nothing');
    server.kill('SIGHUP');
    await until('why not', 5_000, () => log.includes('certificate stays as it was'), () => log);
    assert.equal(await shown(port), 'after.example.org');
  } finally {
    server.kill('SIGKILL');
  }
});

test('a member comes back after its first token has run out', { timeout: 120_000 }, async () => {
  const server = await serve('renewal', { args: ['--dev'] });
  running.push(server);
  browser ??= await chromium();
  const made = new AccessToken('devkey', 'secret', { identity: 'ada', ttl: 2, attributes: { seat: '7' } });
  made.addGrant({ room: 'long', roomJoin: true, canPublishSources: [TrackSource.MICROPHONE] });
  const token = await made.toJwt();
  const page = await load(await open(browser, server));
  await join(page, server, token, {});
  await until('another token', 5_000, () => page.evaluate((first) => window.lk.room.engine.token !== first, token));
  // It is for the same member, who may the same.
  const read = (jwt) => JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url'));
  const now = await page.evaluate(() => window.lk.room.engine.token);
  assert.deepEqual(read(now).video.canPublishSources, ['microphone']);
  assert.deepEqual([read(now).sub, read(now).iss, read(now).attributes], ['ada', 'devkey', { seat: '7' }]);
  assert.ok(read(now).exp > read(token).exp + 500);

  await pause(13_000); // 2 s, and 10 for clocks that differ
  const refused = await fetch(`${server.url}/rtc/validate?access_token=${token}`);
  assert.equal(refused.status, 401, 'the first one has run out');
  for (const scenario of ['signal-reconnect', 'full-reconnect']) {
    const before = await page.evaluate(() => window.lk.events.filter(({ name }) => name === 'reconnected').length);
    await page.evaluate((how) => window.lk.room.simulateScenario(how), scenario);
    await until(`back after ${scenario}`, 20_000, () => page.evaluate((count) => window.lk.events.filter(({ name }) => name === 'reconnected').length > count, before),
      () => '');
  }
  assert.equal(await page.evaluate(() => window.lk.room.state), 'connected');
});
