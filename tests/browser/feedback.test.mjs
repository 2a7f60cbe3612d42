// Congestion control feedback of a real browser (RFC 8888): Chromium offers it behind a field trial, beside transport-wide feedback,
// which is then the one that is answered. Where that is taken out of the offer, the other tells what the path carries.

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { chromium, closePages, heard, moving, publish, watch } from './browsers.mjs';
import { pause, serve, until } from './server.mjs';

let server;
let browser;
before(async () => {
  server = await serve('feedback');
  browser = await chromium(['--force-fieldtrials=WebRTC-RFC8888CongestionControlFeedback/Enabled,offer:true/']);
});
afterEach(closePages);
after(async () => {
  await browser?.close();
  await server?.stop();
});

async function dropped(reason) {
  const line = (await server.get('/metrics')).split('\n').find((text) => text.startsWith('distributary_dropped_packets_total') && text.includes(`"${reason}"`));
  return Number(line?.split(' ').at(-1) ?? 0);
}

test('Chromium tells by stream and sequence number where transport-wide feedback is not offered', { timeout: 90_000 }, async () => {
  const room = 'feedback';
  await publish(browser, server, room, { codec: 'VP8' });
  const both = await watch(browser, server, room, { codec: 'VP8' });
  const answered = await both.evaluate(() => [window.session.pc.localDescription.sdp, window.session.answer]);
  assert.match(answered[0], /a=rtcp-fb:\S+ ack ccfb/, 'the field trial offers it');
  assert.match(answered[1], /transport-cc/);
  assert.doesNotMatch(answered[1], /ccfb/, 'of both, transport-wide feedback');
  await moving(both);
  await both.evaluate(() => window.client.leave());

  const viewer = await watch(browser, server, room, { codec: 'VP8', without: 'transport-cc|transport-wide-cc' });
  const answer = await viewer.evaluate(() => window.session.answer);
  assert.match(answer, /a=rtcp-fb:\* ack ccfb/);
  assert.doesNotMatch(answer, /transport-|goog-remb/);
  await Promise.all([moving(viewer), heard(viewer)]);
  const before = await server.metric('distributary_path_feedback_total');
  await pause(5_000);
  const messages = (await server.metric('distributary_path_feedback_total')) - before;
  assert.ok(messages > 15, `${messages} in five seconds`);
  let watched;
  await until('an estimate above what is sent', 20_000, async () => {
    watched = (await server.room(room)).sessions.find((session) => session.purpose === 'watch');
    return watched.target_bitrate > 500_000 && watched.loss < 0.01;
  }, () => JSON.stringify(watched));
  console.log(JSON.stringify({ messages, target: watched.target_bitrate, loss: watched.loss }));
  assert.deepEqual([await dropped('feedback_unsent'), await dropped('feedback_flood'), await dropped('rtcp_malformed')], [0, 0, 0]);
});
