// A bottleneck in the kernel, for what relay.mjs cannot carry: real TCP beside a viewer's UDP. On the loopback of the network namespace that
// tests/run makes, packets from certain ports share a rate and a queue that drops what does not fit; all others pass.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import net from 'node:net';
import { freeTcpPort } from './server.mjs';

/** Where a flow comes from and goes to: addresses whose routes have an MTU as on Ethernet, and CUBIC (RFC 9438). */
const [SENDER, RECEIVER] = ['127.0.0.8', '127.0.0.9'];

function run(command) {
  const [program, ...words] = command.split(' ');
  return execFileSync(program, words, { encoding: 'utf8' });
}

export class Bottleneck {
  /** `rate` in bits a second; `queue` is the milliseconds that a packet may wait; `ports` are those that packets come from. */
  static start({ rate, queue, ports }) {
    assert.ok(process.env.DISTRIBUTARY_TEST_ADDRESS, 'this loopback is not the tests\' own: use tests/run');
    const bottleneck = new Bottleneck();
    bottleneck.rate = rate;
    // Not before but behind the loopback: what waits in the sender's own machine would hold TCP back before anything is lost.
    run('ip link add ifb0 type ifb');
    run('ip link set ifb0 up');
    run(`tc qdisc add dev ifb0 root tbf rate ${rate}bit burst 3100 limit ${Math.round((rate * queue) / 8_000) + 3_100}`);
    run('tc qdisc add dev lo handle ffff: ingress');
    for (const port of ports) run(`tc filter add dev lo parent ffff: protocol ip u32 match ip sport ${port} 0xffff action mirred egress redirect dev ifb0`);
    for (const address of [SENDER, RECEIVER]) run(`ip route replace local ${address} dev lo table local mtu lock 1500 congctl cubic`);
    return bottleneck;
  }

  /** What waits now, in milliseconds at its rate, and how many packets did not fit so far. */
  look() {
    const { backlog, drops } = JSON.parse(run('tc -s -j qdisc show dev ifb0'))[0];
    return { ms: (8_000 * backlog) / this.rate, drops };
  }

  stop() {
    run('tc qdisc del dev lo ingress');
    run('ip link del ifb0');
    for (const address of [SENDER, RECEIVER]) run(`ip route del local ${address} dev lo table local`);
  }
}

/** One TCP connection that sends as much as it may. */
export class Flow {
  static async open() {
    const flow = new Flow();
    flow.port = await freeTcpPort();
    flow.received = 0;
    return flow;
  }

  async start() {
    const chunk = Buffer.alloc(16_384);
    this.server = net.createServer((socket) => {
      const fill = () => { while (!socket.destroyed && socket.write(chunk)); };
      socket.on('drain', fill);
      socket.on('error', () => {});
      fill();
    });
    await new Promise((done) => this.server.listen(this.port, SENDER, done));
    this.socket = net.connect({ port: this.port, host: SENDER, localAddress: RECEIVER });
    this.socket.on('data', (bytes) => { this.received += bytes.length; });
    await new Promise((done, failed) => this.socket.once('connect', done).once('error', failed));
    const told = run(`ss -tinH src ${SENDER}:${this.port}`);
    assert.match(told, /cubic/, 'its congestion control is CUBIC');
  }

  stop() {
    this.socket?.destroy();
    this.server?.close();
  }
}
