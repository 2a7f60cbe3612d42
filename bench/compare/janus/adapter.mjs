// Starts Janus with its videoroom plugin and lets WHIP and WHEP clients use it. Only joining goes through here: media goes
// between the client and Janus, whose process alone is measured.
//
// usage: node adapter.mjs [EVENT_LOOPS]     0, Janus' default: a thread for each session
//
// It prints "process PID" of Janus and "listening on ADDRESS" when it is ready, and ends with its standard input.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const EVENT_LOOPS = Number(process.argv[2] ?? 0);
const ROOM = 1;
const START_MS = 15_000;

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** ICE lite, as Janus' documentation advises for a server with an address of its own. */
function writeConfiguration(folder, port) {
  const files = {
    'janus.jcfg': `general: {
  configs_folder = "${folder}"
  debug_level = 3
  admin_secret = "unused"
  session_timeout = 0
  ${EVENT_LOOPS ? `event_loops = ${EVENT_LOOPS}` : ''}
}
nat: { ice_lite = true }
plugins: { disable = "libjanus_audiobridge.so,libjanus_echotest.so,libjanus_recordplay.so,libjanus_sip.so,libjanus_nosip.so,libjanus_streaming.so,libjanus_textroom.so,libjanus_videocall.so,libjanus_voicemail.so,libjanus_lua.so,libjanus_duktape.so" }
transports: { disable = "libjanus_websockets.so,libjanus_pfunix.so,libjanus_rabbitmq.so,libjanus_mqtt.so,libjanus_nanomsg.so" }
events: { broadcast = false }
`,
    'janus.transport.http.jcfg': `general: { json = "compact" base_path = "/janus" http = true port = ${port} interface = "lo" https = false }
admin: { admin_http = false admin_https = false }
`,
    // No bitrate limit that would ask the publisher for less.
    'janus.plugin.videoroom.jcfg': `general: { }
room-${ROOM}: { description = "load" publishers = 1 audiocodec = "opus" videocodec = "vp8" fir_freq = 0 bitrate = 0 transport_wide_cc_ext = true }
`,
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
}

const agent = new http.Agent({ keepAlive: true });

/** One request of Janus' HTTP API. */
function ask(port, path, body) {
  return new Promise((done, failed) => {
    const options = { agent, host: '127.0.0.1', port, path, method: body ? 'POST' : 'GET' };
    const request = http.request(options, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => {
        try {
          done(JSON.parse(Buffer.concat(parts)));
        } catch (error) {
          failed(error);
        }
      });
    });
    request.on('error', failed);
    request.end(body && JSON.stringify(body));
  });
}

/** One Janus session that holds a handle for each client. */
class Session {
  waiting = new Map();
  count = 0;

  static async create(port) {
    const session = new Session();
    session.port = port;
    session.id = (await session.post('/janus', { janus: 'create' })).data.id;
    session.listen();
    return session;
  }

  async post(path, body) {
    const answer = await ask(this.port, path, { ...body, transaction: `t${this.count++}` });
    if (answer.janus === 'error') throw new Error(`Janus: ${answer.error.reason}`);
    return answer;
  }

  async attach() {
    return (await this.post(`/janus/${this.id}`, { janus: 'attach', plugin: 'janus.plugin.videoroom' })).data.id;
  }

  detach(handle) {
    return this.post(`/janus/${this.id}/${handle}`, { janus: 'detach' });
  }

  /** Sends a message to the plugin and waits for its event, which comes by the long poll. */
  async message(handle, body, jsep) {
    const event = new Promise((done) => this.waiting.set(handle, done));
    await this.post(`/janus/${this.id}/${handle}`, { janus: 'message', body, ...(jsep && { jsep }) });
    const { plugindata, jsep: answer } = await event;
    if (plugindata.data.error) throw new Error(`Janus: ${plugindata.data.error}`);
    return { data: plugindata.data, sdp: answer?.sdp };
  }

  async listen() {
    for (;;) {
      let events;
      try {
        events = await ask(this.port, `/janus/${this.id}?maxev=20`);
      } catch {
        return;
      }
      for (const event of [events].flat()) {
        if (event.janus !== 'event') continue;
        this.waiting.get(event.sender)?.(event);
        this.waiting.delete(event.sender);
      }
    }
  }
}

const lines = (sdp) => sdp.split(/\r?\n/).filter(Boolean);

/** The sections' kinds and mids, in order. */
const sectionsOf = (sdp) =>
  sdp.split(/^m=/m).slice(1).map((section) => ({ kind: section.split(' ')[0], mid: section.match(/^a=mid:(\S+)/m)?.[1], section }));

/** The description with other mids. */
function withMids(sdp, mids) {
  let section = 0;
  return sdp.replace(/^a=mid:\S+/gm, () => `a=mid:${mids[section++]}`).replace(/^a=group:BUNDLE .*$/m, `a=group:BUNDLE ${mids.join(' ')}\r`);
}

/** The client's offer as an answer to Janus' offer: it becomes the DTLS client, and mids and extensions have Janus' numbers. */
function answerOf(clientOffer, janusOffer) {
  const uris = new Set(lines(clientOffer).filter((line) => line.startsWith('a=extmap:')).map((line) => line.split(' ')[1]));
  const sections = sectionsOf(janusOffer);
  let section = 0;
  const answer = withMids(clientOffer, sections.map(({ mid }) => mid));
  return lines(answer).flatMap((line) => {
    if (line.startsWith('a=extmap:')) return [];
    if (line.startsWith('a=setup:')) return ['a=setup:active'];
    if (!line.startsWith('a=mid:')) return [line];
    const extensions = lines(sections[section++].section).filter((own) => own.startsWith('a=extmap:') && uris.has(own.split(' ')[1]));
    return [line, ...extensions];
  }).join('\r\n') + '\r\n';
}

async function publish(session, room, offer) {
  const handle = await session.attach();
  const body = { request: 'joinandconfigure', room: ROOM, ptype: 'publisher', display: 'load' };
  const { data, sdp } = await session.message(handle, body, { type: 'offer', sdp: offer, trickle: false });
  room.feed = data.id;
  room.mids = new Map(sectionsOf(offer).map(({ kind, mid }) => [kind, mid]));
  return { handle, sdp };
}

/** In a videoroom it is Janus that offers, and the subscriber that answers; a WHEP client wants it the other way round. */
async function watch(session, room, offer) {
  const handle = await session.attach();
  const wanted = sectionsOf(offer);
  const streams = wanted.map(({ kind }) => ({ feed: room.feed, mid: room.mids.get(kind) }));
  const joining = { request: 'join', room: ROOM, ptype: 'subscriber', streams };
  const { sdp } = await session.message(handle, joining);
  const jsep = { type: 'answer', sdp: answerOf(offer, sdp), trickle: false };
  await session.message(handle, { request: 'start' }, jsep);
  return { handle, sdp: withMids(sdp, wanted.map(({ mid }) => mid)).replace(/a=setup:actpass/g, 'a=setup:passive') };
}

async function main() {
  const folder = mkdtempSync(join(tmpdir(), 'janus-'));
  const port = await freePort();
  writeConfiguration(folder, port);
  // Its log goes to our standard error: nobody reads our standard output to its end, and a full pipe would stop it.
  const janus = spawn('janus', ['-F', folder, '-C', join(folder, 'janus.jcfg')], { stdio: ['ignore', 2, 2] });
  const end = (code) => {
    janus.kill();
    rmSync(folder, { recursive: true, force: true });
    process.exit(code);
  };
  janus.on('error', (error) => (console.error(`janus: ${error.message}`), end(1)));
  janus.on('exit', (code) => (console.error(`janus ended with code ${code}`), end(1)));
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => end(0));
  process.stdin.on('end', () => end(0)).resume();

  let session;
  for (const deadline = Date.now() + START_MS; !session; ) {
    session = await Session.create(port).catch((error) => (Date.now() > deadline ? Promise.reject(error) : null));
    if (!session) await new Promise((done) => setTimeout(done, 100));
  }
  const room = {};
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const offer = Buffer.concat(parts).toString();
    try {
      if (request.method === 'DELETE') {
        await session.detach(Number(request.url.split('/').pop()));
        return response.writeHead(200).end();
      }
      const { handle, sdp } = await (request.url.startsWith('/whip') ? publish : watch)(session, room, offer);
      response.writeHead(201, { 'Content-Type': 'application/sdp', Location: `/session/${handle}` }).end(sdp);
    } catch (error) {
      response.writeHead(500).end(error.message);
    }
  });
  server.listen(0, '127.0.0.1', () => {
    console.log(`process ${janus.pid}`);
    console.log(`listening on 127.0.0.1:${server.address().port}`);
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
