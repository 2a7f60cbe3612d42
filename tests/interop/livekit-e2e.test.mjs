// The end-to-end tests that LiveKit's SDK for Node ships in its package, as they are, against our server: two of its native clients connect,
// hear each other, send data, texts and files, call each other, resume and reconnect. They are written for vitest.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { OUT, TESTS, serve } from '../browser/server.mjs';

/** Of those in the package; fewer would mean that some were left out. */
const COUNT = 29;
/** Its tests run several at a time, each with a deadline: on a slow machine one may miss it. */
const ATTEMPTS = 3;

let server;
before(async () => { server = await serve('livekit-e2e'); });
after(() => server?.stop());

/** Runs them, and tells how each ended. */
async function run(folder) {
  const report = path.join(folder, 'report.json');
  rmSync(report, { force: true });
  const program = path.join(TESTS, 'node_modules', 'vitest', 'vitest.mjs');
  const env = { ...process.env, LIVEKIT_URL: server.url, LIVEKIT_API_KEY: 'devkey', LIVEKIT_API_SECRET: 'secret' };
  const said = await new Promise((done) => execFile(process.execPath, [program, 'run', 'e2e', '--reporter=json', `--outputFile=${report}`, '--no-file-parallelism', '--maxConcurrency=2'],
    { cwd: folder, env, timeout: 150_000, maxBuffer: 1 << 26 }, (_, stdout, stderr) => done(stdout + stderr)));
  writeFileSync(path.join(folder, 'said.log'), said);
  return JSON.parse(readFileSync(report, 'utf8')).testResults.flatMap((file) => file.assertionResults);
}

test('LiveKit\'s own end-to-end tests pass', { timeout: 500_000 }, async () => {
  // Outside of node_modules, where vitest looks for none.
  const folder = path.join(OUT, 'livekit-e2e');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(path.join(TESTS, 'node_modules', '@livekit', 'rtc-node', 'src'), folder, { recursive: true });
  writeFileSync(path.join(folder, 'vitest.config.mjs'), 'export default {};\n');
  const passed = new Set();
  let failed = [];
  for (let attempt = 0; attempt < ATTEMPTS && passed.size < COUNT; attempt++) {
    const results = await run(folder);
    results.filter(({ status }) => status === 'passed').forEach(({ fullName }) => passed.add(fullName));
    failed = results.filter(({ status, fullName }) => status !== 'passed' && !passed.has(fullName));
  }
  assert.equal(passed.size, COUNT, failed.map(({ fullName, failureMessages }) => `${fullName}: ${failureMessages}`).join('\n'));
});
