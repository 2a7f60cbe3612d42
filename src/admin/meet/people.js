// The list of participants, and what the page knows of one: a name, a raised hand, what is on.
//
// A raised hand is the participant attribute `hand`: the time it was raised, in milliseconds since 1970, so that hands come in order.

import { $, copy, el, icon } from './dom.js';

const HAND = 'hand';
/** Rows that are drawn. */
const ROWS_MAX = 200;

export const nameOf = (participant) => participant.name || participant.identity || 'Somebody';

/** When the hand was raised; 0 if it is down. */
export const handOf = (participant) => Number(participant.attributes?.[HAND]) || 0;

export const raiseHand = (participant, raised) => participant.setAttributes({ [HAND]: raised ? String(Date.now()) : '' });

/** Everybody, oneself first, then raised hands in order, then by arrival. */
export function everybody(room) {
  const others = [...room.remoteParticipants.values()];
  others.sort((a, b) => (handOf(a) || Infinity) - (handOf(b) || Infinity) || (a.joinedAt ?? 0) - (b.joinedAt ?? 0) || a.identity.localeCompare(b.identity));
  return [room.localParticipant, ...others];
}

export class PeopleList {
  constructor(link, pin) {
    this.pin = pin;
    $('people-copy').prepend(icon('link'));
    $('people-copy').addEventListener('click', () => copy(link(), 'The link is copied.'));
  }

  draw(room) {
    const all = everybody(room);
    $('tab-people').textContent = `People (${all.length})`;
    const rows = all.slice(0, ROWS_MAX).map((participant) => this.row(participant));
    if (all.length > ROWS_MAX) rows.push(el('li.hint', {}, `and ${all.length - ROWS_MAX} more`));
    $('people-list').replaceChildren(...rows);
  }

  row(participant) {
    const name = nameOf(participant) + (participant.isLocal ? ' (you)' : '');
    const marks = el('span.person-marks');
    const mark = (name, words, kind) => marks.append(el(`span.${kind}`, { role: 'img', 'aria-label': words, title: words }, icon(name)));
    if (handOf(participant)) mark('hand', 'Hand raised', 'mark');
    if (participant.isScreenShareEnabled) mark('screen', 'Shares a screen', 'water');
    if (participant.isMicrophoneEnabled) mark('mic', 'Microphone on', participant.isSpeaking ? 'water' : 'soft');
    else mark('micOff', 'Muted', 'soft');
    if (participant.isCameraEnabled) mark('camera', 'Camera on', 'soft');
    else mark('cameraOff', 'Camera off', 'soft');
    const button = el('button.plain.person', { type: 'button', title: `Show ${name} large` }, el('span.person-name', {}, name), marks);
    button.addEventListener('click', () => this.pin(participant));
    return el('li', { 'data-identity': participant.identity }, button);
  }
}
