// Chromium with data channels, for tests/data.rs: says its offer, is told the answer, says what came back.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { chromium } from './browsers.mjs';

const browser = await chromium(['--allow-loopback-in-peer-connection']);
const http = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<!doctype html>')).listen(0, '127.0.0.1');
await new Promise((listening) => http.once('listening', listening));
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${http.address().port}/`);
  const offer = await page.evaluate(async () => {
    const connection = new RTCPeerConnection();
    const state = { connection, server: [], echoes: [], numbers: [], lossy: [] };
    window.state = state;
    const channel = (label, options) => {
      const made = connection.createDataChannel(label, options);
      made.binaryType = 'arraybuffer';
      state[`opened${label}`] = new Promise((opened) => { made.onopen = opened; });
      return made;
    };
    const describe = (data) => (typeof data === 'string' ? `text:${data.length < 100 ? data : data.length}` : `binary:${data.byteLength}`);
    state.reliable = channel('_reliable');
    state.unreliable = channel('_lossy', { ordered: false, maxRetransmits: 0 });
    state.reliable.onmessage = ({ data }) => {
      if (typeof data === 'string' && data[0] === '#') state.numbers.push(Number(data.slice(1)));
      else state.echoes.push(describe(data));
    };
    state.unreliable.onmessage = ({ data }) => state.lossy.push(Number(data));
    connection.ondatachannel = (event) => { event.channel.onmessage = ({ data }) => state.server.push(data); };
    await connection.setLocalDescription();
    return connection.localDescription.sdp;
  });
  console.log(JSON.stringify(offer));
  const [answer] = await new Promise((said) => { createInterface(process.stdin).once('line', (line) => said([JSON.parse(line)])); });
  const report = await page.evaluate(async (sdp) => {
    const state = window.state;
    const pause = (millis) => new Promise((over) => { setTimeout(over, millis); });
    await state.connection.setRemoteDescription({ type: 'answer', sdp });
    await Promise.all([state.opened_reliable, state.opened_lossy]);
    for (const message of ['téxt', new Uint8Array(6), '', new Uint8Array(0), 'x'.repeat(60000), new Uint8Array(60000)]) state.reliable.send(message);
    for (let number = 0; number < 300; number += 1) {
      state.reliable.send(`#${number}`);
      state.unreliable.send(String(number));
      await pause(2);
    }
    for (let round = 0; round < 600 && (state.echoes.length < 6 || state.numbers.length < 300 || !state.server.length); round += 1) await pause(50);
    await pause(500);
    const { server, echoes, numbers, lossy } = state;
    return { server, echoes, numbers, lossy };
  }, answer);
  console.log(JSON.stringify(report));
} finally {
  await browser.close();
  http.close();
  process.stdin.destroy();
}
