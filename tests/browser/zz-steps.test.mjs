import { after, before, test } from 'node:test';
import { chromium, closePages, moving, publish, stats, watch } from './browsers.mjs';
import { Relay } from './relay.mjs';
import { pause, serve, until } from './server.mjs';
import { writeFileSync } from 'node:fs';
const BITRATES = { q: 150_000, h: 600_000, f: 1_900_000 };
let server, browser;
before(async () => { server = await serve('zz'); browser = await chromium(); });
after(async () => { await browser?.close(); await server?.stop(); });
const published = async (room) => (await server.room(room)).sessions.find((one) => one.purpose === 'publish');
test('steps', { timeout: 400_000 }, async () => {
  const room = 'steps';
  await publish(browser, server, room, { codec: 'VP8', simulcast: true, width: 960, height: 540, frameRate: 20, detail: 150, maxBitrates: BITRATES });
  let layers;
  await until('three', 40_000, async () => {
    layers = Object.fromEntries((await published(room)).layers.map(({ encoding, bitrates }) => [encoding, bitrates.reduce((a, b) => a + b)]));
    return Object.entries(BITRATES).every(([rid, bitrate]) => layers[rid] > 0.6 * bitrate);
  });
  console.log(JSON.stringify(layers));
  const relay = await Relay.start(server.mediaPort, { rate: 3e6, queue: 200, delay: 10 });
  const wait0 = relay.wait.bind(relay);
  const packets = [];
  relay.wait = (bytes) => { const w = wait0(bytes); packets.push([Date.now(), bytes, w === undefined ? -1 : Math.round(w)]); return w; };
  const viewer = await watch(browser, server, room, { mediaPort: relay.port, connectMs: 20_000 });
  await viewer.evaluate(() => { window.client.notePictures(); });
  const polled = [];
  const timer = setInterval(async () => {
    const at = Date.now();
    const all = (await server.room(room)).sessions; const one = all.find((o) => o.purpose === 'watch'); const pub = all.find((o)=>o.purpose==='publish');
    polled.push([at, one.target_bitrate, one.acknowledged_bitrate, one.layer_sent?.encoding, one.layer_sent?.temporal, one.waiting_bytes, pub.plis ?? pub.stats?.plis]);
  }, 40);
  const rounds = [];
  for (let round = 0; round < Number(process.env.ROUNDS ?? 2); round += 1) {
    for (const [kbps, ms] of [[3000, 15000], [1000, 6000 + Math.random() * 1000], [300, 8000]]) {
      relay.rate = kbps * 1000; rounds.push([Date.now(), kbps]);
      await pause(ms);
    }
  }
  clearInterval(timer);
  const pictures = await viewer.evaluate(() => window.pictures);
  writeFileSync('/tmp/team/steps.json', JSON.stringify({ rounds, packets, pictures, polled }));
  relay.stop();
  await closePages();
});
