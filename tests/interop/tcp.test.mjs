// Clients whose network drops UDP: Chromium in a network namespace with an nft rule to that effect reaches the server by ICE-TCP, and
// by a TURN server (Debian's coturn) over TCP and over TLS.
//
// Needs root: it makes a network namespace.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { X509Certificate, createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { closePages, moving, open } from '../browser/browsers.mjs';
import { join, load, token } from '../browser/sdk.mjs';
import { OUT, serve, until } from '../browser/server.mjs';
import { endClients, start } from './clients.mjs';

const SERVER = '198.18.8.1';
const TCP_PORT = 17881;

const ip = (...args) => execFileSync('ip', args.join(' ').split(' '), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

let holder;
let inside;
let server;
let browser;

before(async () => {
  assert.equal(process.getuid(), 0, 'a network namespace can only be made by root');
  holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { stdio: 'ignore' });
  inside = ['nsenter', `--net=/proc/${holder.pid}/ns/net`];
  const own = execFileSync('readlink', ['/proc/self/ns/net']).toString();
  await until('the namespace is there', 5_000, () => execFileSync('readlink', [`/proc/${holder.pid}/ns/net`]).toString() !== own);
  ip(`link add dtcp0 type veth peer name dtcp1 netns ${holder.pid}`);
  for (const [end, enter] of [[0, []], [1, inside]]) {
    const [program, ...rest] = [...enter, 'ip'];
    const there = (line) => execFileSync(program, [...rest, ...line.split(' ')]);
    there('link set lo up');
    there(`link set dtcp${end} up`);
    there(`address add 198.18.8.${end + 1}/24 dev dtcp${end}`);
  }
  const rules = ['table inet drop_udp {', 'chain out { type filter hook output priority 0; meta l4proto udp counter drop; }',
    'chain in { type filter hook input priority 0; meta l4proto udp counter drop; }', '}'].join('\n');
  execFileSync(inside[0], [...inside.slice(1), 'nft', '-f', '-'], { input: rules });
});
afterEach(async () => {
  await closePages();
  await browser?.close();
  browser = undefined;
  await endClients();
  await server?.stop();
  server = undefined;
});
after(() => {
  ip('link delete dtcp0');
  holder?.kill('SIGKILL');
});

/** Chromium in the namespace, spoken to through pipes: no socket of it is reached from here. `extra`: further command line switches. */
async function chromiumInside(extra = []) {
  mkdirSync(OUT, { recursive: true });
  const program = path.join(OUT, 'chromium-inside');
  writeFileSync(program, `#!/bin/sh\nexec ${inside.join(' ')} /usr/bin/chromium "$@"\n`);
  chmodSync(program, 0o755);
  return puppeteer.launch({
    executablePath: program,
    headless: true,
    pipe: true,
    protocolTimeout: 120_000,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
      '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--disable-background-timer-throttling',
      '--disable-backgrounding-occluded-windows', '--disable-renderer-backgrounding',
      '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', `--unsafely-treat-insecure-origin-as-secure=${server.url}`, ...extra],
  });
}

/** UDP packets that the rule dropped. */
const dropped = () => {
  const rules = execFileSync(inside[0], [...inside.slice(1), 'nft', 'list', 'table', 'inet', 'drop_udp'], { encoding: 'utf8' });
  return [...rules.matchAll(/packets (\d+)/g)].reduce((sum, [, count]) => sum + Number(count), 0);
};

test('without UDP, Chromium publishes and watches by ICE-TCP', { timeout: 180_000 }, async () => {
  server = await serve('tcp', { workers: 1, tcpPort: TCP_PORT, host: SERVER, args: ['--dev', '--bind', SERVER] });
  browser = await chromiumInside();
  const publisher = await open(browser, server);
  const before = dropped();
  const answer = await publisher.evaluate((o) => window.client.publish(o), { url: `${server.url}/whip/room` });
  const viewer = await open(browser, server);
  await viewer.evaluate((o) => window.client.watch(o), { url: `${server.url}/whep/room` });
  await viewer.bringToFront();
  await moving(viewer, { frames: 40, ms: 60_000, changed: 0.002 });
  assert.equal(await server.metric('distributary_tcp_connections_total'), 2, `connections; answer ${JSON.stringify(answer ?? '')}`);
  assert.ok(dropped() > before, 'UDP was tried first, and dropped');
});

test('a client that speaks no STUN is sent away, and others are served', { timeout: 60_000 }, async () => {
  server = await serve('tcp-garbage', { workers: 1, tcpPort: TCP_PORT, host: SERVER, args: ['--dev', '--bind', SERVER] });
  const code = `import socket, sys
for data in (b"GET / HTTP/1.1\\r\\n\\r\\n", b"\\x00\\x00", b"\\xff\\xff" + b"x" * 100):
    s = socket.create_connection(("${SERVER}", ${TCP_PORT}), timeout=10)
    s.sendall(data)
    try:
        assert s.recv(10) == b""
    except ConnectionResetError:
        pass`;
  execFileSync(inside[0], [...inside.slice(1), '/usr/bin/python3', '-c', code], { timeout: 30_000 });
  await until('they are counted', 5_000, async () => (await server.get('/metrics')).includes('worker="tcp",reason="tcp_malformed"} 3'));
});

const TURN = `turn:${SERVER}:13478?transport=tcp`;
const TURNS = `turns:${SERVER}:15349?transport=tcp`;

/**
 * A TURN server, our server with its URL in the config and no ICE-TCP, and Chromium, which trusts the key of the TURN server's certificate as
 * it would a certificate that an authority has signed.
 */
async function relayed(name, url) {
  mkdirSync(OUT, { recursive: true });
  const file = (end) => path.join(OUT, `${name}.${end}`);
  execFileSync('/usr/bin/openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1', '-subj', `/CN=${SERVER}`,
    '-addext', `subjectAltName=IP:${SERVER}`, '-keyout', file('key.pem'), '-out', file('cert.pem')], { stdio: 'ignore' });
  start(`${name}-turnserver`, '/usr/bin/turnserver', ['-n', '--no-cli', '--log-file', 'stdout', '--listening-port', 13478, '--tls-listening-port', 15349,
    '--cert', file('cert.pem'), '--pkey', file('key.pem'), '--listening-ip', SERVER, '--relay-ip', SERVER, '--lt-cred-mech', '--user', 'user:password',
    '--realm', 'test', '--pidfile', file('pid')]);
  writeFileSync(file('toml'), `[[ice.servers]]\nurls = ["${url}"]\nusername = "user"\ncredential = "password"\n`);
  server = await serve(name, { workers: 1, tcpPort: 0, host: SERVER, args: ['--dev', '--bind', SERVER, '--config', file('toml')] });
  const key = new X509Certificate(readFileSync(file('cert.pem'))).publicKey.export({ type: 'spki', format: 'der' });
  browser = await chromiumInside([`--ignore-certificate-errors-spki-list=${createHash('sha256').update(key).digest('base64')}`]);
}

/** The client's end of the way that is taken, by the browser's statistics of a peer connection, a sender or a receiver. */
const way = `async (of) => {
  const stats = await of.getStats();
  const transport = [...stats.values()].find(({ type }) => type === 'transport');
  const { candidateType, relayProtocol, url } = stats.get(stats.get(transport.selectedCandidatePairId).localCandidateId);
  return { candidateType, relayProtocol, url };
}`;

for (const [url, relayProtocol] of [[TURN, 'tcp'], [TURNS, 'tls']]) {
  test(`without UDP and ICE-TCP, Chromium publishes and watches through a TURN server that the answer names, over ${relayProtocol}`, { timeout: 180_000 }, async () => {
    await relayed(`turn-${relayProtocol}`, url);
    // The server names it with each answer (RFC 9725 §4.6); a client that needs it to gather asks once to learn that.
    const servers = await (await open(browser, server)).evaluate(async (whep) => {
      const pc = new RTCPeerConnection();
      pc.addTransceiver('video', { direction: 'recvonly' });
      await pc.setLocalDescription();
      const headers = { 'content-type': 'application/sdp' };
      const response = await fetch(whep, { method: 'POST', headers, body: pc.localDescription.sdp });
      await fetch(new URL(response.headers.get('location'), whep), { method: 'DELETE' });
      pc.close();
      const server = /<(turn[^>]+)>;\s*rel="ice-server"(?:;\s*username="([^"]*)")?(?:;\s*credential="([^"]*)")?/g;
      return [...(response.headers.get('link') ?? '').matchAll(server)].map(([, urls, username, credential]) => ({ urls, username, credential }));
    }, `${server.url}/whep/other`);
    assert.deepEqual(servers, [{ urls: url, username: 'user', credential: 'password' }]);
    const page = async () => {
      const opened = await open(browser, server);
      await opened.evaluate((iceServers) => {
        const Plain = window.RTCPeerConnection;
        window.RTCPeerConnection = class extends Plain { constructor() { super({ iceServers }); } };
      }, servers);
      return opened;
    };
    const publisher = await page();
    await publisher.evaluate((o) => window.client.publish(o), { url: `${server.url}/whip/room` });
    const viewer = await page();
    await viewer.evaluate((o) => window.client.watch(o), { url: `${server.url}/whep/room` });
    await viewer.bringToFront();
    await moving(viewer, { frames: 40, ms: 60_000, changed: 0.002 });
    for (const opened of [publisher, viewer]) {
      assert.deepEqual(await opened.evaluate(`(${way})(window.session.pc)`), { candidateType: 'relay', relayProtocol, url });
    }
    assert.equal(await server.metric('distributary_tcp_connections_total'), 0);
  });
}

test('without UDP and ICE-TCP, members of a room meet through a TURN server over TLS that the server tells them of', { timeout: 180_000 }, async () => {
  await relayed('turn-members', TURNS);
  const member = async (identity) => {
    const opened = await load(await open(browser, server));
    await join(opened, server, await token('room', identity));
    return opened;
  };
  const ada = await member('ada');
  await ada.evaluate(() => window.lk.publish());
  const bob = await member('bob');
  await bob.bringToFront();
  let seen;
  await until('bob sees and hears ada', 60_000, async () => {
    seen = await bob.evaluate(() => window.lk.received());
    const [sound, picture] = ['audio', 'video'].map((kind) => seen.find((track) => track.kind === kind));
    return sound?.energy > 0.01 && picture?.frames > 40 && picture.shown;
  }, () => JSON.stringify(seen));
  const relay = { candidateType: 'relay', relayProtocol: 'tls', url: TURNS };
  assert.deepEqual(await bob.evaluate(`(${way})([...window.lk.room.remoteParticipants.get('ada').trackPublications.values()][0].track.receiver)`), relay);
  assert.deepEqual(await ada.evaluate(`(${way})([...window.lk.room.localParticipant.trackPublications.values()][0].track.sender)`), relay);
});
