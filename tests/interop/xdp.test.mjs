// AF_XDP: the server on one end of a veth pair, clients in a network namespace at the other. Whatever the server writes itself
// (Ethernet, IP and UDP headers, checksums) is judged by the clients' kernel, which drops what is wrong. VLAN tags are left to
// the unit tests: not every kernel that tests run on has VLAN devices.
//
// Needs root: the kernel loads eBPF programs for nobody else.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { OUT, TESTS, command, pause, serve, until } from '../browser/server.mjs';
import { VENV_PYTHON, endClients, start } from './clients.mjs';

const AIORTC = path.join(TESTS, 'interop', 'aiortc_client.py');
const RECEIVED = 'distributary_received_datagrams_total';
const SENT = 'distributary_sent_datagrams_total';
const BY_XDP = { [RECEIVED]: 'distributary_xdp_received_datagrams_total', [SENT]: 'distributary_xdp_sent_datagrams_total' };

const ip = (...args) => execFileSync('ip', args.join(' ').split(' '), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** The clients' network namespace, held by a process that sleeps; `inside` runs a command there. */
let holder;
let inside;
let server;

before(async () => {
  assert.equal(process.getuid(), 0, 'AF_XDP can only be tested by root');
  holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { stdio: 'ignore' });
  inside = ['nsenter', `--net=/proc/${holder.pid}/ns/net`];
  const own = execFileSync('readlink', ['/proc/self/ns/net']).toString();
  await until('the namespace is there', 5_000, () => execFileSync('readlink', [`/proc/${holder.pid}/ns/net`]).toString() !== own);
  ip(`link add dxdp0 type veth peer name dxdp1 netns ${holder.pid}`);
  for (const [end, enter] of [[0, []], [1, inside]]) {
    const [program, ...rest] = [...enter, 'ip'];
    const there = (line) => execFileSync(program, [...rest, ...line.split(' ')]);
    there('link set lo up');
    there(`link set dxdp${end} up`);
    there(`address add 198.18.7.${end + 1}/24 dev dxdp${end}`);
    there(`address add fd07::${end + 1}/64 dev dxdp${end} nodad`);
  }
});
afterEach(endClients);
afterEach(async () => {
  await server?.stop();
  server = undefined;
});
after(() => {
  ip('link delete dxdp0');
  holder?.kill('SIGKILL');
});

const log = (name) => readFileSync(path.join(OUT, `${name}.log`), 'utf8');
const attached = () => /prog\/xdp/.test(ip('-details link show dev dxdp0'));

/** Runs Python in the clients' namespace, and waits for it. */
const python = (code, ...args) => execFileSync(inside[0], [...inside.slice(1), '/usr/bin/python3', '-c', code, ...args.map(String)], {
  timeout: 30_000,
});

/** Sends `count` datagrams of these first bytes to the media port, from a source that is no client. */
const junk = (count, first) => python(
  `import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("198.18.7.1", int(sys.argv[1])))
for i in range(int(sys.argv[2])):
    s.send(bytes([int(sys.argv[3])]) * 60)`,
  server.mediaPort, count, first,
);

async function published(name, host, client, bind = host) {
  server = await serve(name, { io: 'xdp:dxdp0', workers: 1, host, args: ['--dev', '--bind', bind] });
  const env = { DISTRIBUTARY_CLIENT_ADDRESS: client };
  start(`${name}-publish`, VENV_PYTHON, [AIORTC, 'publish', `${server.url}/whip/room`, 'VP8'], { inside, env });
  await until('media arrives', 20_000, async () => (await server.metric('distributary_received_media_packets_total')) > 100);
  return () => start(`${name}-watch`, VENV_PYTHON, [AIORTC, 'watch', `${server.url}/whep/room`, 6], { inside, env }).result();
}

function sees(seen) {
  assert.equal(seen.state, 'connected');
  assert.ok(seen.decoded >= 30, `decoded ${seen.decoded} frames`);
  assert.ok(seen.changed >= seen.decoded / 2, `${seen.changed} of ${seen.decoded} frames differ from the one before`);
  assert.ok(seen.audio_frames > 80 && seen.loudness > 0.01, `${seen.audio_frames} audio frames, loudest ${seen.loudness}`);
}

for (const [name, host, client, bind] of [
  ['xdp-ipv4', '198.18.7.1', '198.18.7.2'],
  // On all addresses, so that the one to answer from has to be found.
  ['xdp-ipv6', '[fd07::1]', 'fd07::2', '::'],
]) {
  test(`${name}: aiortc publishes and watches, and its media goes by AF_XDP`, { timeout: 60_000 }, async () => {
    const watch = await published(name, host, client, bind);
    assert.match(log(name), /AF_XDP on dxdp0, \d+ queues?, native mode, (zero-)?copy/);
    sees(await watch());
    const seen = await server.metrics([...Object.keys(BY_XDP), ...Object.values(BY_XDP)]);
    for (const [all, byXdp] of Object.entries(BY_XDP)) {
      // The first few answers go by the socket, until the guide has found the way.
      assert.ok(seen[all] > 300 && seen[byXdp] / seen[all] > 0.95, `${byXdp}: ${seen[byXdp]} of ${seen[all]}`);
    }
  });
}

/** ETHTOOL_STXCSUM: whether the server's device makes checksums. */
const makesChecksums = (on) => execFileSync('/usr/bin/python3', ['-c', `import array, fcntl, socket, struct
value = array.array("B", struct.pack("II", 0x17, ${on ? 1 : 0}))
request = struct.pack("16sP", b"dxdp0", value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request + bytes(16))`]);

test('a device that makes no checksums: the kernel does for frames that leave them to it', { timeout: 60_000 }, async () => {
  // The clients' kernel checks each datagram then, where between virtual devices it trusts them.
  makesChecksums(false);
  try {
    sees(await (await published('xdp-checksums', '198.18.7.1', '198.18.7.2'))());
  } finally {
    makesChecksums(true);
  }
  const counters = python('print(open("/proc/net/snmp").read())').toString();
  const [names, values] = [...counters.matchAll(/^Udp: (.*)$/gm)].map((line) => line[1].split(' '));
  assert.equal(values[names.indexOf('InCsumErrors')], '0', counters);
});

test('junk is dropped by the program, a stranger\'s media by the worker, and other traffic passes', { timeout: 30_000 }, async () => {
  server = await serve('xdp-junk', { io: 'xdp:dxdp0', workers: 1, host: '198.18.7.1', args: ['--dev', '--bind', '198.18.7.1'] });
  junk(50, 200);
  junk(30, 128);
  await until('the junk is counted', 5_000, async () => {
    const lines = (await server.get('/metrics')).split('\n');
    const dropped = (worker, reason) => lines.includes(`distributary_dropped_packets_total{worker="${worker}",reason="${reason}"} ${{ xdp_junk: 50, unknown_source: 30 }[reason]}`);
    return dropped('xdp', 'xdp_junk') && dropped('0', 'unknown_source');
  });
  python('import sys, urllib.request; assert urllib.request.urlopen(sys.argv[1], timeout=5).read() == b"ok\\n"', `${server.url}/healthz`);
});

test('a flood is dropped by the program, and clients go on', { timeout: 90_000 }, async () => {
  const watch = await published('xdp-flood', '198.18.7.1', '198.18.7.2');
  junk(400_000, 128);
  await until('the flood is noticed', 5_000, () => log('xdp-flood').includes('flood:'));
  const flood = start('xdp-flood-source', '/usr/bin/python3', ['-c', `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("198.18.7.1", ${server.mediaPort}))
while True: s.send(bytes([128]) * 60)`], { inside });
  sees(await watch());
  await flood.end();
  const dropped = /reason="xdp_flood"\} ([1-9]\d*)/.exec(await server.get('/metrics'));
  assert.ok(dropped && Number(dropped[1]) > 10_000, `dropped by the program: ${dropped?.[1]}`);
});

test('killed without warning, it leaves no program behind', { timeout: 30_000 }, async () => {
  server = await serve('xdp-killed', { io: 'xdp:dxdp0', workers: 1, host: '198.18.7.1', args: ['--dev', '--bind', '198.18.7.1'] });
  assert.ok(attached());
  server.child.kill('SIGKILL');
  await server.exited;
  await until('the program is gone', 5_000, () => !attached());
});

test('where AF_XDP cannot be used one line says why, and sockets serve', { timeout: 30_000 }, async () => {
  server = await serve('xdp-fallback', { io: 'xdp:lo', workers: 1 });
  const lines = log('xdp-fallback').split('\n');
  assert.equal(lines.filter((line) => line.includes('AF_XDP')).length, 1, lines.join('\n'));
  assert.match(lines.join('\n'), /AF_XDP is not usable on lo \(cannot use the interface: it is no Ethernet device\); ordinary sockets/);
  assert.match(lines.join('\n'), /I\/O +(io_uring|recvmmsg)/);
  await server.stop();
  assert.throws(() => command('serve', '--dev', '--http-port', '0', '--media-port', '0', '--tcp-port', '0', '--io', 'xdp:nosuch0'), (error) => {
    assert.match(error.stderr.toString(), /media\.io = "xdp:nosuch0": there is no interface nosuch0; Ethernet ones are .*dxdp0/);
    return error.status === 1;
  });
});
