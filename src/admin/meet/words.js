// What went wrong, in plain words: of connecting, of being disconnected, and of cameras and microphones.

import { ConnectionErrorReason, DisconnectReason } from 'livekit-client';

/** Why joining failed. */
export function connectWords(error) {
  switch (error?.reason) {
    case ConnectionErrorReason.NotAllowed:
      return `The server did not let you in: ${sentence(error.message, 'the access token does not allow it')}`;
    case ConnectionErrorReason.ServerUnreachable:
    case ConnectionErrorReason.WebSocket:
      return 'The server cannot be reached. Check your network and try again.';
    case ConnectionErrorReason.Timeout:
      return 'The server did not answer in time. Try again.';
    case ConnectionErrorReason.ServiceNotFound:
      return 'The server does not offer meetings: it may be an older version.';
    case ConnectionErrorReason.LeaveRequest:
      return leftWords(error.context);
    case ConnectionErrorReason.Cancelled:
      return 'Joining was cancelled.';
    default:
      break;
  }
  if (/pc connection|could not establish/i.test(error?.message ?? '')) {
    return 'The server was reached, but no media gets through: a firewall may block UDP between you and it.';
  }
  return sentence(error?.message, 'Joining failed. Try again.');
}

/** Why one is out of the meeting; empty if it was one's own wish. */
export function leftWords(reason) {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return '';
    case DisconnectReason.DUPLICATE_IDENTITY:
      return 'You joined from another window or device with the same access token.';
    case DisconnectReason.PARTICIPANT_REMOVED:
      return 'You were removed from the meeting.';
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return 'The meeting was ended for everyone.';
    case DisconnectReason.SERVER_SHUTDOWN:
      return 'The server is shutting down or restarting. Try again in a moment.';
    case DisconnectReason.JOIN_FAILURE:
      return 'The server could not let you in. It may be full: try again in a moment.';
    default:
      return 'The connection was lost and did not come back.';
  }
}

/** Why there is no camera, microphone or screen. `what` names it. */
export function deviceWords(error, what) {
  if (!navigator.mediaDevices) return `Browsers give a ${what} only to pages over https, or on localhost.`;
  switch (error?.name) {
    case 'NotAllowedError':
    case 'SecurityError':
      return `The browser may not use the ${what}: allow it beside the address, and try again.`;
    case 'NotFoundError':
    case 'OverconstrainedError':
    case 'DevicesNotFoundError':
      return `No ${what} was found.`;
    case 'NotReadableError':
    case 'AbortError':
      return `The ${what} cannot be used: another program may have it.`;
    default:
      return `The ${what} cannot be used: ${sentence(error?.message, 'the browser does not say why.')}`;
  }
}

function sentence(text, otherwise) {
  const words = (text ?? '').trim() || otherwise;
  return /[.!?]$/.test(words) ? words : `${words}.`;
}
