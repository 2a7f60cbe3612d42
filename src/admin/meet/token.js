// Where the access token comes from: the address (`?access_token=`, `#token=`), this tab's memory, the box on the join screen, or, with
// `--dev`, the server itself, which is asked the way LiveKit's token endpoints are.

import { recall, remember } from './dom.js';

/** The room that the address names; empty at `/meet`. */
export function roomFromAddress() {
  const [, room = ''] = /^\/meet\/([^/]+)\/?$/.exec(location.pathname) ?? [];
  try {
    return decodeURIComponent(room);
  } catch {
    return room;
  }
}

export const address = (room) => `/meet/${encodeURIComponent(room)}`;

/** Takes the token out of the address, so that a copied address does not give it away, and keeps it for reloads of this tab. */
export function tokenFromAddress(room) {
  const query = new URLSearchParams(location.search);
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = query.get('access_token') || fragment.get('access_token') || fragment.get('token');
  if (!token) return recall(sessionStorage, `token.${room}`);
  remember(sessionStorage, `token.${room}`, token);
  query.delete('access_token');
  for (const name of ['access_token', 'token']) fragment.delete(name);
  const [search, hash] = [query.toString(), fragment.toString()];
  history.replaceState(null, '', location.pathname + (search && `?${search}`) + (hash && `#${hash}`));
  return token;
}

export const keepToken = (room, token) => remember(sessionStorage, `token.${room}`, token);

/** Whether the server makes tokens by itself. */
export async function serverMakesTokens(room) {
  try {
    return (await fetch(`${address(room || 'x')}/token`, { cache: 'no-store' })).ok;
  } catch {
    return false;
  }
}

/** A token made by a server that runs with `--dev`. Throws an Error in the server's words. */
export async function newToken(room, name) {
  const suffix = Array.from(crypto.getRandomValues(new Uint8Array(4)), (byte) => byte.toString(16).padStart(2, '0')).join('');
  const body = JSON.stringify({ participant_identity: `${name.slice(0, 32)}-${suffix}`, participant_name: name });
  const response = await fetch(`${address(room)}/token`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  if (!response.ok) throw new Error((await response.text()).trim() || `The server answered ${response.status}.`);
  return (await response.json()).participant_token;
}

/** What is wrong with a token, as far as can be seen without its secret; empty if nothing. */
export function tokenProblem(token, room) {
  const claims = claimsOf(token);
  if (!claims) return 'That is no access token: it should have three parts with dots between them.';
  if (claims.exp * 1000 < Date.now()) return 'The access token has expired. Ask for a new one.';
  if (!claims.video?.roomJoin) return 'The access token does not allow joining a meeting.';
  if (claims.video.room && claims.video.room !== room) return `The access token is for the meeting “${claims.video.room}”, not “${room}”.`;
  return '';
}

/** The claims of a JWT (RFC 7519); null if it is none. */
export function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
}
