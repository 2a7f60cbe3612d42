// Starts a LiveKit server and lets WHIP and WHEP clients use it. Only joining goes through here: media goes between the client
// and LiveKit, whose process alone is measured.
//
// LiveKit has a WHIP endpoint of its own. The same endpoint serves viewers: an offer that only receives gets the tracks of
// publishers that a header names. So all there is to do here is to name them, and to sign a token for each participant.
//
// usage: node adapter.mjs LIVEKIT_SERVER
//
// It prints "process PID" of LiveKit and "listening on ADDRESS" when it is ready, and ends with its standard input.

import { spawn } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const KEY = 'load';
const SECRET = randomBytes(32).toString('hex');
const START_MS = 15_000;
const PUBLISHER = 'publisher';
/** How LiveKit names what a WHIP client publishes. */
const TRACKS = { audio: 'synthesized-microphone', video: 'synthesized-camera' };

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** One UDP port for each core it may use, as its sample configuration advises, and ICE lite. */
const configuration = (port, mediaPort) => ({
  port,
  bind_addresses: ['127.0.0.1'],
  keys: { [KEY]: SECRET },
  logging: { level: 'error' },
  rtc: { udp_port: mediaPort, tcp_port: 0, use_ice_lite: true, use_external_ip: false, node_ip: '127.0.0.1', enable_loopback_candidate: true },
});

/** A token (RFC 7515, HS256) with LiveKit's grants. */
function token(room, identity, publishes) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const video = { room, roomJoin: true, canPublish: publishes, canSubscribe: !publishes };
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iss: KEY, sub: identity, nbf: now - 10, exp: now + 86_400, video })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

const agent = new http.Agent({ keepAlive: true });

function ask(port, method, path, headers, body) {
  return new Promise((done, failed) => {
    const request = http.request({ agent, host: '127.0.0.1', port, method, path, headers }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => done({ status: response.statusCode, headers: response.headers, text: Buffer.concat(parts).toString() }));
    });
    request.on('error', failed);
    request.end(body);
  });
}

async function main() {
  const [program] = process.argv.slice(2);
  if (!program) throw new Error('usage: node adapter.mjs LIVEKIT_SERVER');
  const folder = mkdtempSync(join(tmpdir(), 'livekit-'));
  const [port, mediaPort] = [await freePort(), await freePort()];
  const file = join(folder, 'livekit.yaml');
  // JSON is YAML.
  writeFileSync(file, JSON.stringify(configuration(port, mediaPort)));
  // Its log goes to our standard error: nobody reads our standard output to its end, and a full pipe would stop it.
  const livekit = spawn(program, ['--config', file], { stdio: ['ignore', 2, 2] });
  const end = (code) => {
    livekit.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
    process.exit(code);
  };
  livekit.on('error', (error) => (console.error(`${program}: ${error.message}`), end(1)));
  livekit.on('exit', (code) => (console.error(`${program} ended with code ${code}`), end(1)));
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => end(0));
  process.stdin.on('end', () => end(0)).resume();

  for (const deadline = Date.now() + START_MS; ; ) {
    const up = await ask(port, 'GET', '/', {}).catch((error) => (Date.now() > deadline ? Promise.reject(error) : null));
    if (up) break;
    await new Promise((done) => setTimeout(done, 100));
  }

  const tokens = new Map();
  let viewers = 0;
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const offer = Buffer.concat(parts).toString();
    try {
      const [, kind, name] = request.url.split('/');
      if (request.method === 'DELETE') {
        const bearer = tokens.get(name);
        tokens.delete(name);
        const { status } = await ask(port, 'DELETE', `/whip/v1/${name}`, { Authorization: `Bearer ${bearer}` });
        return response.writeHead(status).end();
      }
      const publishes = kind === 'whip';
      const bearer = token(name, publishes ? PUBLISHER : `viewer-${viewers++}`, publishes);
      const headers = { Authorization: `Bearer ${bearer}`, 'Content-Type': 'application/sdp', 'Content-Length': Buffer.byteLength(offer) };
      if (!publishes) {
        const wanted = [...offer.matchAll(/^m=(audio|video) /gm)].map(([, media]) => TRACKS[media]);
        headers['X-LiveKit-ClientInfo'] = JSON.stringify({ subscribedParticipantTrackNames: { [PUBLISHER]: wanted } });
      }
      const answer = await ask(port, 'POST', '/whip/v1', headers, offer);
      if (answer.status !== 201) return response.writeHead(answer.status).end(answer.text);
      const session = answer.headers.location.split('/').pop();
      tokens.set(session, bearer);
      response.writeHead(201, { 'Content-Type': 'application/sdp', Location: `/session/${session}` }).end(answer.text);
    } catch (error) {
      response.writeHead(500).end(error.message);
    }
  });
  server.listen(0, '127.0.0.1', () => {
    console.log(`process ${livekit.pid}`);
    console.log(`listening on 127.0.0.1:${server.address().port}`);
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
