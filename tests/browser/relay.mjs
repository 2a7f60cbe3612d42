// A UDP relay between clients and the server: the network that the loopback is not. It loses packets in both directions, delays them, and
// towards the clients it may carry so many bits a second, with a queue before it that drops what does not fit.
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

/** Bytes of IP and UDP headers that a path carries beside a datagram. */
const HEADERS = 28;

export class Relay {
  /**
   * `loss` is a probability, `delay` milliseconds each way, `rate` bits a second towards the clients, and `queue` the milliseconds that a
   * packet may wait for those before it. All may be changed while the relay runs.
   */
  static async start(serverPort, { seed = 1, loss = 0, delay = 0, rate = Infinity, queue = 200 } = {}) {
    const relay = new Relay();
    Object.assign(relay, { loss, delay, rate, queue });
    /** Of each packet that passed the queue: when it came (as of `Date.now()`), the milliseconds that it waited, and its bits. */
    relay.waits = [];
    relay.overflowed = 0;
    relay.free = 0;
    relay.onTheWay = { up: [], down: [] };
    relay.passed = { up: 0, down: 0 };
    relay.lost = { up: 0, down: 0 };
    relay.random = { up: generator(seed), down: generator(seed ^ 0x9e3779b9) };
    relay.clients = new Map();
    relay.socket = dgram.createSocket('udp4');
    relay.socket.on('message', (packet, from) => {
      if (relay.drops('up')) return;
      const socket = relay.towardsServer(from, serverPort);
      relay.deliver('up', relay.delay, () => socket.send(packet, serverPort, '127.0.0.1'));
    });
    await new Promise((done) => relay.socket.bind(0, '127.0.0.1', done));
    relay.port = relay.socket.address().port;
    return relay;
  }

  /** From which the server sees the clients come. */
  get ports() {
    return [...this.clients.values()].map((socket) => socket.address().port);
  }

  drops(direction) {
    const dropped = this.random[direction]() < this.loss;
    (dropped ? this.lost : this.passed)[direction] += 1;
    return dropped;
  }

  /** Milliseconds until a packet has passed the bottleneck; none if the queue has no place for it. */
  wait(bytes) {
    if (this.rate === Infinity) return 0;
    const now = performance.now();
    const queued = Math.max(this.free - now, 0);
    if (queued > this.queue) {
      this.overflowed += 1;
      return undefined;
    }
    this.waits.push({ at: Date.now(), ms: queued, bits: 8 * (bytes + HEADERS) });
    this.free = now + queued + (8_000 * (bytes + HEADERS)) / this.rate;
    return this.free - now;
  }

  /** In order, whatever changes: timers of different lengths do not keep it by themselves. */
  deliver(direction, ms, send) {
    if (ms === 0 && this.onTheWay[direction].length === 0) return send();
    const way = this.onTheWay[direction];
    way.push({ at: Math.max(performance.now() + ms, way.at(-1)?.at ?? 0), send });
    if (way.length === 1) this.wake(direction);
    return undefined;
  }

  wake(direction) {
    const way = this.onTheWay[direction];
    setTimeout(() => {
      while (way.length > 0 && way[0].at <= performance.now() + 0.5) way.shift().send();
      if (way.length > 0) this.wake(direction);
    }, Math.max(way[0].at - performance.now(), 0));
  }

  towardsServer(client) {
    const key = `${client.address}:${client.port}`;
    let socket = this.clients.get(key);
    if (!socket) {
      socket = dgram.createSocket('udp4');
      socket.on('message', (packet) => {
        const wait = this.wait(packet.length);
        if (wait === undefined || this.drops('down')) return;
        this.deliver('down', wait + this.delay, () => this.socket.send(packet, client.port, client.address));
      });
      this.clients.set(key, socket);
    }
    return socket;
  }

  stop() {
    for (const way of Object.values(this.onTheWay)) way.length = 0;
    this.socket.close();
    for (const socket of this.clients.values()) socket.close();
  }
}
