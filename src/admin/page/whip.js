// WHIP (RFC 9725) and WHEP clients: one HTTP exchange opens a session, DELETE ends it.
//
// The server is ICE-lite with candidates in its answer, so nothing is trickled and nothing is waited for: the offer
// leaves as soon as it is made. The local description is set only after the answer is here, because that starts
// candidate gathering, and the `Link rel="ice-server"` headers of the answer have to be known by then (section 4.6).

/** The server's refusal, or no answer at all (`status` 0). */
export class Refusal extends Error {
  constructor(status, reason, retryAfterS = null) {
    super(reason || `HTTP ${status}`);
    this.name = 'Refusal';
    this.status = status;
    this.reason = reason;
    this.retryAfterS = retryAfterS;
  }
}

/** An open session: where it lives, and how to end it. */
export class Session {
  constructor(url, etag, token) {
    this.url = url;
    this.etag = etag;
    this.token = token;
  }

  /** Whether the server has forgotten the session (a restart, an expiry). False when it cannot be asked. */
  async isGone() {
    try {
      const response = await fetch(this.url, { method: 'HEAD', headers: bearer(this.token), cache: 'no-store' });
      return response.status === 404 || response.status === 410;
    } catch {
      return false;
    }
  }

  /** What the server makes of the picture and knows of the way here, as `GET {session}/layer` tells it; null when it cannot be asked. */
  async view() {
    try {
      const response = await fetch(`${this.url}/layer`, { headers: bearer(this.token), cache: 'no-store' });
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }

  /** Tells the server how often the picture has stood still, and for how many seconds: nobody else knows. */
  async tell({ freezes, frozenSeconds }) {
    const headers = { ...bearer(this.token), 'Content-Type': 'application/json' };
    const body = JSON.stringify({ freezeCount: freezes, totalFreezesDuration: frozenSeconds });
    await fetch(`${this.url}/seen`, { method: 'POST', headers, body }).catch(() => {});
  }

  /** Tells the server how large the picture is shown, in pixels of the screen: it sends no larger one. */
  async fit(width, height) {
    const headers = { ...bearer(this.token), 'Content-Type': 'application/json' };
    await fetch(`${this.url}/layer`, { method: 'POST', headers, body: JSON.stringify({ width, height }) }).catch(() => {});
  }

  /** Ends the session. `keepalive` lets the request outlive the page (section 4.2). */
  close({ keepalive = false } = {}) {
    return fetch(this.url, { method: 'DELETE', headers: bearer(this.token), keepalive }).catch(() => {});
  }
}

/**
 * Offers what `pc` holds to `endpoint` and applies the answer.
 * Throws a Refusal, or an AbortError when `signal` fires first.
 */
export async function negotiate({ endpoint, pc, token, signal }) {
  const offer = await pc.createOffer();
  const response = await post(endpoint, offer.sdp, token, signal);
  if (response.status !== 201) {
    const text = (await response.text().catch(() => '')).trim();
    throw new Refusal(response.status, text.slice(0, 300), retryAfter(response));
  }
  const location = response.headers.get('Location');
  if (!location) throw new Refusal(response.status, 'the answer has no Location header');
  const session = new Session(new URL(location, response.url).href, response.headers.get('ETag'), token);
  try {
    const iceServers = iceServersOf(response.headers.get('Link'));
    const answer = await response.text();
    signal?.throwIfAborted();
    if (iceServers.length > 0) pc.setConfiguration({ ...pc.getConfiguration(), iceServers });
    await pc.setLocalDescription(offer);
    await pc.setRemoteDescription({ type: 'answer', sdp: answer });
    return session;
  } catch (error) {
    session.close();
    throw error;
  }
}

async function post(endpoint, sdp, token, signal) {
  try {
    return await fetch(endpoint, {
      method: 'POST',
      headers: { 'Content-Type': 'application/sdp', Accept: 'application/sdp', ...bearer(token) },
      body: sdp,
      signal,
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal(0, error.message);
  }
}

function bearer(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function retryAfter(response) {
  const seconds = Number.parseInt(response.headers.get('Retry-After') ?? '', 10);
  return Number.isFinite(seconds) ? Math.max(1, seconds) : null;
}

/** Parses `<turn:host?transport=udp>; rel="ice-server"; username="u"; credential="c"` (section 4.6). */
function iceServersOf(link) {
  const servers = [];
  for (const part of (link ?? '').split(/,\s*(?=<)/)) {
    const url = /<([^>]*)>/.exec(part)?.[1];
    if (!url || !/;\s*rel="?ice-server"?/i.test(part)) continue;
    const server = { urls: url };
    for (const name of ['username', 'credential']) {
      const value = new RegExp(`;\\s*${name}="((?:[^"\\\\]|\\\\.)*)"`, 'i').exec(part)?.[1];
      if (value !== undefined) server[name] = value.replace(/\\(.)/g, '$1');
    }
    servers.push(server);
  }
  return servers;
}
