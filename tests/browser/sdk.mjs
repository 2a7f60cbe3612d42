// LiveKit's client in a page, which `livekit.js` drives there, and the tokens that let it in.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { AccessToken } from 'livekit-server-sdk';

const require = createRequire(import.meta.url);
const umd = (name) => readFileSync(path.join(path.dirname(require.resolve(name)), 'livekit-client.umd.js'), 'utf8');
const PAGE = readFileSync(new URL('./livekit.js', import.meta.url), 'utf8');

export const CURRENT = umd('livekit-client');
export const OLDER = umd('livekit-client-older');
/** Its default, and what LiveKit's other SDKs do. */
export const ONE = { singlePeerConnection: true };
export const TWO = { singlePeerConnection: false };

export async function token(room, identity, grants = {}, key = 'devkey', secret = 'secret') {
  const made = new AccessToken(key, secret, { identity, name: `${identity}'s name`, ttl: '10m' });
  made.addGrant({ room, roomJoin: true, canUpdateOwnMetadata: true, ...grants });
  return made.toJwt();
}

/** Brings a client into a page. */
export async function load(page, client = CURRENT) {
  await page.evaluate(client);
  await page.evaluate(PAGE);
  return page;
}

/** Has a page join the room of its token. */
export const join = (page, server, jwt, options = ONE, connect = {}) =>
  page.evaluate((u, t, o, c) => window.lk.join(u, t, o, c), server.url, jwt, options, connect);
