// A LiveKit server in the place of ours: the meeting page has to work with both. It serves the page as our server does, makes tokens as our
// `--dev` does, and passes signalling on; media goes between the browsers and LiveKit.
//
// LIVEKIT_SERVER is its program: GOBIN=$PWD go install github.com/livekit/livekit-server/cmd/server@v1.13.5

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { OUT, TESTS, freeTcpPort, freeUdpPort, token, until } from './server.mjs';

const DIST = path.resolve(TESTS, '..', 'src', 'admin', 'meet', 'dist');
const FILES = {
  '/meet.js': [path.join(DIST, 'meet.js'), 'text/javascript'],
  '/meet-e2ee.js': [path.join(DIST, 'meet-e2ee.js'), 'text/javascript'],
  '/meet.css': [path.join(DIST, 'meet.css'), 'text/css'],
  '/favicon.svg': [path.resolve(DIST, '..', '..', 'page', 'favicon.svg'), 'image/svg+xml'],
};

/** What our server allows its pages. */
const POLICY = "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
  + "media-src 'self' blob: mediastream:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/** `open`: whether it makes tokens of who asks, as our `--dev` does. */
export async function livekit(name, { key = 'devkey', secret = 'secret', open = true } = {}) {
  const program = process.env.LIVEKIT_SERVER;
  assert.ok(program && existsSync(program), 'LIVEKIT_SERVER is to name the program of a LiveKit server: see tests/browse./livekit-server.mjs');
  mkdirSync(OUT, { recursive: true });
  const [port, mediaPort] = [await freeTcpPort(), await freeUdpPort()];
  const file = path.join(OUT, `${name}.livekit.yaml`);
  // JSON is YAML.
  writeFileSync(file, JSON.stringify({
    port, bind_addresses: ['127.0.0.1'], keys: { [key]: secret }, logging: { level: 'info' },
    rtc: { udp_port: mediaPort, tcp_port: 0, use_ice_lite: true, use_external_ip: false, node_ip: '127.0.0.1', enable_loopback_candidate: true },
  }));
  const log = createWriteStream(path.join(OUT, `${name}.livekit.log`));
  const notes = createWriteStream(path.join(OUT, `${name}.livekit.pages.log`));
  const child = spawn(program, ['--config', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.on('data', (bytes) => log.write(bytes));
  child.stderr.on('data', (bytes) => log.write(bytes));
  await until(`LiveKit answers on port ${port}`, 15_000, () => {
    assert.equal(child.exitCode, null, `LiveKit ended at once: see ${OUT}/${name}.livekit.log`);
    return fetch(`http://127.0.0.1:${port}/`).then(() => true, () => false);
  });

  const front = http.createServer((request, response) => answer(request, response, port, open));
  const sockets = new Set();
  front.on('upgrade', (request, socket, head) => {
    const upstream = net.connect(port, '127.0.0.1', () => {
      const lines = request.rawHeaders.reduce((text, value, i) => text + value + (i % 2 ? '\r\n' : ': '), '');
      upstream.write(`${request.method} ${request.url} HTTP/1.1\r\n${lines}\r\n`);
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    for (const end of [socket, upstream]) end.on('error', () => (socket.destroy(), upstream.destroy()));
  });
  await new Promise((done) => front.listen(0, '127.0.0.1', done));
  return {
    url: `http://127.0.0.1:${front.address().port}`,
    note: (line) => notes.write(`${new Date().toISOString()} ${line}\n`),
    /** Cuts the signalling of everybody, as a network change does. */
    cut: () => sockets.forEach((socket) => socket.destroy()),
    async stop() {
      child.kill('SIGKILL');
      front.closeAllConnections();
      sockets.forEach((socket) => socket.destroy());
      await new Promise((done) => front.close(done));
    },
  };
}

async function answer(request, response, port, open) {
  const { pathname } = new URL(request.url, 'http://localhost');
  const parts = [];
  for await (const part of request) parts.push(part);
  const page = /^\/meet(\/[^/]+)?\/?$/.test(pathname) ? [path.join(DIST, 'index.html'), 'text/html'] : FILES[pathname];
  if (page) {
    response.writeHead(200, { 'Content-Type': `${page[1]}; charset=utf-8`, 'Content-Security-Policy': POLICY });
    return void response.end(readFileSync(page[0]));
  }
  const [, room] = /^\/meet\/([^/]+)\/token$/.exec(pathname) ?? [];
  if (room && !open) return void response.writeHead(403).end('This server makes no tokens.');
  if (room && request.method === 'GET') return void response.writeHead(204).end();
  if (room) {
    const { participant_identity: identity, participant_name: name } = JSON.parse(Buffer.concat(parts));
    const grants = { canPublishData: true, canUpdateOwnMetadata: true };
    const made = token({ room: decodeURIComponent(room), publish: true, subscribe: true, identity, name, grants });
    return void response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify({ participant_token: made }));
  }
  const passed = http.request({ port, host: '127.0.0.1', method: request.method, path: request.url, headers: request.headers }, (theirs) => {
    response.writeHead(theirs.statusCode, theirs.headers);
    theirs.pipe(response);
  });
  passed.on('error', () => response.writeHead(502).end());
  passed.end(Buffer.concat(parts));
}
