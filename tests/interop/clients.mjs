// Other people's WebRTC programs as child processes: started, watched, and ended with the test.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync } from 'node:fs';
import path from 'node:path';
import { OUT, TESTS } from '../browser/server.mjs';

export const VENV_PYTHON = path.join(TESTS, '.cache', 'venv', 'bin', 'python');
/** The one with Debian's python3-gi; a virtual environment does not see it. */
export const SYSTEM_PYTHON = '/usr/bin/python3';

const running = new Set();

/** Ends what a test left running: for `afterEach`. */
export async function endClients() {
  await Promise.all([...running].map((client) => client.end()));
}

class Client {
  constructor(name, child) {
    this.name = name;
    this.child = child;
    this.output = '';
    const log = createWriteStream(path.join(OUT, `${name}.log`));
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => log.write(bytes));
    child.stdout.on('data', (bytes) => { this.output += bytes; });
    this.exited = new Promise((done) => child.once('close', (code, signal) => {
      running.delete(this);
      this.ended = true;
      log.end();
      done({ code, signal });
    }));
    running.add(this);
  }

  /** Waits for the program to end by itself, successfully, and returns the JSON on its last line. */
  async result() {
    const { code, signal } = await this.exited;
    assert.equal(code, 0, `${this.name} ended with ${code ?? signal}: see ${path.join(OUT, `${this.name}.log`)}`);
    return JSON.parse(this.output.trim().split('\n').at(-1));
  }

  async end() {
    if (this.ended) return;
    this.child.kill('SIGTERM');
    const killer = setTimeout(() => this.child.kill('SIGKILL'), 3_000);
    await this.exited;
    clearTimeout(killer);
  }
}

/** `inside`: a command that runs the program somewhere else, in a network namespace for instance; `env`: more environment. */
export function start(name, program, args, { inside = [], env = {} } = {}) {
  assert.ok(existsSync(program), `${program} is missing: run tests/run, which installs it`);
  mkdirSync(OUT, { recursive: true });
  const [command, ...rest] = [...inside, program, ...args.map(String)];
  return new Client(name, spawn(command, rest, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } }));
}
