// Clients whose network drops UDP: Chromium in a network namespace with an nft rule to that effect reaches the server by ICE-TCP, and
// by a TURN server (Debian's coturn) over TCP.
//
// Needs root: it makes a network namespace.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { closePages, moving, open } from '../browser/browsers.mjs';
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

/** Chromium in the namespace, spoken to through pipes: no socket of it is reached from here. */
async function chromiumInside() {
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
      `--unsafely-treat-insecure-origin-as-secure=${server.url}`],
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

test('without UDP and ICE-TCP, Chromium watches through a TURN server that the answer names', { timeout: 180_000 }, async () => {
  const config = path.join(OUT, 'turn.toml');
  mkdirSync(OUT, { recursive: true });
  writeFileSync(config, `[[ice.servers]]\nurls = ["turn:${SERVER}:13478?transport=tcp"]\nusername = "user"\ncredential = "password"\n`);
  start('turnserver', '/usr/bin/turnserver', ['-n', '--no-cli', '--no-tls', '--no-dtls', '--log-file', 'stdout', '--listening-port', 13478,
    '--listening-ip', SERVER, '--relay-ip', SERVER, '--lt-cred-mech', '--user', 'user:password', '--realm', 'test', '--pidfile', path.join(OUT, 'turnserver.pid')]);
  server = await serve('turn', { workers: 1, tcpPort: 0, host: SERVER, args: ['--dev', '--bind', SERVER, '--config', config] });
  browser = await chromiumInside();
  // The server names it with each answer (RFC 9725 §4.6); a client that needs it to gather asks once to learn that.
  const servers = await (await open(browser, server)).evaluate(async (url) => {
    const pc = new RTCPeerConnection();
    pc.addTransceiver('video', { direction: 'recvonly' });
    await pc.setLocalDescription();
    const headers = { 'content-type': 'application/sdp' };
    const response = await fetch(url, { method: 'POST', headers, body: pc.localDescription.sdp });
    await fetch(new URL(response.headers.get('location'), url), { method: 'DELETE' });
    pc.close();
    const server = /<(turn[^>]+)>;\s*rel="ice-server"(?:;\s*username="([^"]*)")?(?:;\s*credential="([^"]*)")?/g;
    return [...(response.headers.get('link') ?? '').matchAll(server)].map(([, urls, username, credential]) => ({ urls, username, credential }));
  }, `${server.url}/whep/other`);
  assert.deepEqual(servers, [{ urls: `turn:${SERVER}:13478?transport=tcp`, username: 'user', credential: 'password' }]);
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
  assert.equal(await server.metric('distributary_tcp_connections_total'), 0);
});
