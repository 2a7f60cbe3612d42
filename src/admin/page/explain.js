// What went wrong, in words that say what to do about it.

import { MissingCapture } from './source.js';
import { Refusal } from './whip.js';

/**
 * The media connection did not come up (`never`), broke off (`lost`), or the server forgot the session (`gone`).
 * `port` is the UDP port that the server answered with.
 */
export class ConnectionError extends Error {
  constructor(kind, port) {
    super(kind);
    this.name = 'ConnectionError';
    this.kind = kind;
    this.port = port ?? 7882;
  }
}

/**
 * Returns `{ title, text, reason, actions, retry }` for what ended an attempt. `actions` name buttons; `retry` tells
 * whether waiting may help; `focus` names the field to fill in.
 */
export function explain(cause, { mode, room, source }) {
  if (cause instanceof Refusal) return { reason: cause.reason, ...refusal(cause, mode, room) };
  if (cause instanceof ConnectionError) return { actions: ['retry'], retry: true, ...connection(cause) };
  return { actions: ['retry', 'test'], retry: false, ...capture(cause, source) };
}

function refusal({ status, retryAfterS }, mode, room) {
  const again = { actions: ['retry'], retry: false };
  if (status === 0) {
    return {
      ...again,
      title: 'The server does not answer',
      text: 'Is it running? Start it with “distributary serve --dev”, or check the network between here and there.',
      reason: '',
      retry: true,
    };
  }
  if (status === 401) {
    return {
      ...again,
      title: 'This server wants an access token',
      text: 'Paste a valid one under “Access token” and try again. “distributary token” on the server makes one.',
      focus: 'token',
    };
  }
  if (status === 403) {
    const right = mode === 'publish' ? 'canPublish' : 'canSubscribe';
    return {
      ...again,
      title: 'The token does not allow this',
      text: `It has to name the room “${room}” and grant ${right}.`,
      focus: 'token',
    };
  }
  if (status === 404) {
    return {
      ...again,
      title: 'Not found',
      text: `The server knows no room “${room}”, or WHIP and WHEP live elsewhere on it.`,
      retry: true,
    };
  }
  if (status === 409 && mode === 'publish') {
    return {
      title: `Somebody already publishes in “${room}”`,
      text: 'A room has one publisher. Watch it, or choose another room name.',
      actions: ['watch', 'retry'],
      retry: true,
      focus: 'room',
    };
  }
  if (status === 429 || status === 503) {
    const when = retryAfterS ? `It asks to come back in ${retryAfterS} s.` : 'Try again in a moment.';
    return {
      ...again,
      title: 'The server is full',
      text: `It refuses new sessions to keep the running ones smooth. ${when}`,
      retry: true,
    };
  }
  if (status >= 500) {
    return { ...again, title: `The server failed (${status})`, text: 'Its log says why. Trying again may help.', retry: true };
  }
  const advice =
    mode === 'publish' ? 'Choose another codec, or turn simulcast off.' : 'Another browser may offer a codec in common.';
  return { ...again, title: `The server refused the offer (${status})`, text: advice };
}

function connection({ kind, port }) {
  if (kind === 'never') {
    return {
      title: 'No media gets through',
      text:
        `The server answered, but UDP did not pass. Open UDP port ${port} in the firewalls between; ` +
        'behind NAT the server needs --external-ip.',
    };
  }
  if (kind === 'gone')
    return { title: 'The server ended the session', text: 'It was restarted, or the session was closed there.' };
  return { title: 'The connection was lost', text: 'The network changed or broke off, or the server stopped.' };
}

function capture(cause, source) {
  const device = source === 'screen' ? 'screen' : 'camera';
  if (cause instanceof MissingCapture && cause.what === 'screen') {
    return {
      title: 'No screen sharing here',
      text: 'This browser cannot share a screen; phones mostly cannot. Use a desktop browser, or the camera.',
    };
  }
  if (cause instanceof MissingCapture) {
    return {
      title: `No ${device} on an insecure page`,
      text: `Browsers give the ${device} only to https pages and to localhost. Open this page by http://localhost:7880, or set TLS up.`,
    };
  }
  if (cause?.name === 'NotAllowedError' && source === 'screen') {
    return { title: 'No screen chosen', text: 'The choice was cancelled. Try again and pick a screen, a window or a tab.' };
  }
  if (cause?.name === 'NotAllowedError') {
    return {
      title: 'The camera is blocked',
      text: 'Allow camera and microphone for this page: the icon left of the address opens its permissions. Then try again.',
    };
  }
  if (cause?.name === 'NotFoundError') {
    return { title: 'No camera found', text: 'Plug one in and try again, or publish the test picture.' };
  }
  if (cause?.name === 'NotReadableError') {
    return { title: 'The camera is busy', text: 'Another program holds it. Close that program and try again.' };
  }
  return {
    title: 'That did not work',
    text: 'The browser could not start. What it said:',
    reason: cause?.message ?? String(cause),
  };
}
