// A UDP relay between clients and the server that loses packets in both directions: the network that the loopback is not.
//
// Every client address gets a socket of its own towards the server, as behind a NAT. Losses are drawn from a seeded generator,
// one for each direction, and fall on everything alike: STUN, DTLS, RTP and RTCP.

import dgram from 'node:dgram';

/** mulberry32: small, seeded, good enough to lose packets by. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

export class Relay {
  /** `loss` is a probability; it may be changed while the relay runs. */
  static async start(serverPort, { seed = 1, loss = 0 } = {}) {
    const relay = new Relay();
    relay.loss = loss;
    relay.passed = { up: 0, down: 0 };
    relay.lost = { up: 0, down: 0 };
    relay.random = { up: generator(seed), down: generator(seed ^ 0x9e3779b9) };
    relay.clients = new Map();
    relay.socket = dgram.createSocket('udp4');
    relay.socket.on('message', (packet, from) => {
      if (relay.drops('up')) return;
      relay.towardsServer(from, serverPort).send(packet, serverPort, '127.0.0.1');
    });
    await new Promise((done) => relay.socket.bind(0, '127.0.0.1', done));
    relay.port = relay.socket.address().port;
    return relay;
  }

  drops(direction) {
    const dropped = this.random[direction]() < this.loss;
    (dropped ? this.lost : this.passed)[direction] += 1;
    return dropped;
  }

  towardsServer(client) {
    const key = `${client.address}:${client.port}`;
    let socket = this.clients.get(key);
    if (!socket) {
      socket = dgram.createSocket('udp4');
      socket.on('message', (packet) => {
        if (!this.drops('down')) this.socket.send(packet, client.port, client.address);
      });
      this.clients.set(key, socket);
    }
    return socket;
  }

  stop() {
    this.socket.close();
    for (const socket of this.clients.values()) socket.close();
  }
}
