// Starts the server under test on free ports of the loopback, keeps its log in tests/out, and reads its metrics.

import assert from 'node:assert/strict';
import { spawn, execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import dgram from 'node:dgram';
import { createWriteStream, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const TESTS = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
export const OUT = path.join(TESTS, 'out');
export const BINARY = process.env.DISTRIBUTARY ?? path.resolve(TESTS, '..', 'target', 'release', 'distributary');

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Polls `probe` until it is true. Fails with `what`, the time, and what `detail` says of the last look. */
export async function until(what, ms, probe, detail = () => '') {
  const end = Date.now() + ms;
  for (;;) {
    if (await probe()) return;
    if (Date.now() > end) assert.fail(`not within ${ms / 1000} s: ${what} ${detail()}`);
    await pause(200);
  }
}

export function freeTcpPort() {
  return new Promise((done, failed) => {
    const socket = net.createServer().once('error', failed).listen(0, '127.0.0.1', () => {
      const { port } = socket.address();
      socket.close(() => done(port));
    });
  });
}

export function freeUdpPort() {
  return new Promise((done, failed) => {
    const socket = dgram.createSocket('udp4').once('error', failed).bind(0, '127.0.0.1', () => {
      const { port } = socket.address();
      socket.close(() => done(port));
    });
  });
}

/** An access token as any other program would make one: JWT, HS256, LiveKit's grant fields. */
export function token({ key = 'devkey', secret = 'secret', room, publish = false, subscribe = false, seconds = 600, identity = 'test', name, grants }) {
  const now = Math.floor(Date.now() / 1000);
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = {
    iss: key, sub: identity, name, nbf: now - 5, exp: now + seconds,
    video: { room, roomJoin: true, canPublish: publish, canSubscribe: subscribe, ...grants },
  };
  const body = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

export const KEY = 'testkey';
export const SECRET = 'a-secret-of-the-tests-32-bytes-long!';

/** Runs a subcommand of the server and returns its standard output. */
export function command(...args) {
  return execFileSync(BINARY, args, { encoding: 'utf8', timeout: 20_000 });
}

/** Writes a configuration that wants tokens of KEY, and stays on the loopback. */
export function configWithKeys(name) {
  mkdirSync(OUT, { recursive: true });
  const file = path.join(OUT, `${name}.toml`);
  writeFileSync(file, `bind = "127.0.0.1"\n\n[keys]\n${KEY} = "${SECRET}"\n`);
  return file;
}

class Server {
  constructor(name, child, host, httpPort, mediaPort) {
    this.name = name;
    this.child = child;
    this.httpPort = httpPort;
    this.mediaPort = mediaPort;
    this.url = `http://${host}:${httpPort}`;
    this.log = createWriteStream(path.join(OUT, `${name}.log`));
    this.notes = createWriteStream(path.join(OUT, `${name}.pages.log`));
    this.exited = new Promise((done) => child.once('exit', (code, signal) => {
      this.ended = true;
      done({ code, signal });
    }));
    child.stdout.on('data', (bytes) => this.log.write(bytes));
    child.stderr.on('data', (bytes) => this.log.write(bytes));
  }

  /** A line about the browsers, beside the server's log. */
  note(line) {
    this.notes.write(`${new Date().toISOString()} ${line}\n`);
  }

  async get(where) {
    const response = await fetch(this.url + where, { signal: AbortSignal.timeout(5_000) });
    assert.equal(response.status, 200, `GET ${where}`);
    return response.text();
  }

  /** One metric, summed over its labels; 0 if it is not there yet. */
  async metric(name) {
    let total = 0;
    for (const line of (await this.get('/metrics')).split('\n')) {
      const match = /^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)/.exec(line);
      if (match && match[1] === name) total += Number(match[3]);
    }
    return total;
  }

  /** Several metrics as an object of numbers. */
  async metrics(names) {
    const text = await this.get('/metrics');
    const values = Object.fromEntries(names.map((name) => [name, 0]));
    for (const line of text.split('\n')) {
      const match = /^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)/.exec(line);
      if (match && match[1] in values) values[match[1]] += Number(match[3]);
    }
    return values;
  }

  async rooms() {
    return JSON.parse(await this.get('/api/v1/rooms')).rooms;
  }

  /** What the API tells of a room; undefined while nobody is in it. */
  async room(name) {
    return (await this.rooms()).find(({ room }) => room === name);
  }

  /** Ctrl-C. The server has to be gone within a second; a debugger's patience is three. */
  async stop() {
    if (this.ended) return this.exited;
    this.child.kill('SIGINT');
    const killer = setTimeout(() => this.child.kill('SIGKILL'), 3_000);
    const result = await this.exited;
    clearTimeout(killer);
    this.log.end();
    this.notes.end();
    return result;
  }
}

/**
 * Starts a server of its own for a test file. `name` names its log; `host` is where it is reached, as in a URL; `inside` is a command that runs
 * it somewhere else, in a mount namespace for instance, and becomes it.
 */
export async function serve(name, options = {}) {
  const { workers = 2, tcpPort = 0, io = process.env.DISTRIBUTARY_TEST_IO ?? 'auto', args = ['--dev'], host = '127.0.0.1', inside = [] } = options;
  assert.ok(existsSync(BINARY), `${BINARY} is not built: cargo build --release`);
  mkdirSync(OUT, { recursive: true });
  const [httpPort, mediaPort] = [await freeTcpPort(), await freeUdpPort()];
  const all = ['serve', ...args, '--http-port', httpPort, '--media-port', mediaPort, '--tcp-port', tcpPort, '--workers', workers, '--io', io].map(String);
  const [program, ...rest] = [...inside, BINARY, ...all];
  const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
  const server = new Server(name, child, host, httpPort, mediaPort);
  await until(`${name}: ${all.join(' ')} answers /healthz`, 10_000, async () => {
    assert.ok(!server.ended, `the server ended at once: see ${path.join(OUT, `${name}.log`)}`);
    return fetch(`${server.url}/healthz`).then((r) => r.ok, () => false);
  });
  return server;
}
