// The rooms with their sessions, one table each. A table is drawn anew only when what it shows has changed, so that a button does not
// disappear under the pointer.

import { bits, since } from './load.js';

/** Rows of all rooms together. */
const ROWS_MAX = 500;

const COLUMNS = [
  ['Identity', ({ identity, id }) => identity || id],
  ['Does', ({ purpose }) => purpose],
  ['State', ({ state, speaking }) => (speaking ? `${state}, speaks` : state)],
  ['Sends', ({ tracks, layers }) => tracks.filter(({ direction }) => direction === 'in').map(({ codec, kind }) => codec ?? kind).join(', ') + encodings(layers)],
  ['Is sent', ({ layer_sent: sent }) => (sent ? `layer ${[sent.encoding, `S${sent.spatial}`, `T${sent.temporal}`].filter(Boolean).join(' ')}` : '')],
  ['In', ({ bitrate_in: rate }) => bits(rate), 'number'],
  ['Out', ({ bitrate_out: rate }) => bits(rate), 'number'],
  ['Path', ({ target_bitrate: rate }) => (rate ? bits(rate) : ''), 'number'],
  ['Loss', ({ loss }) => (loss === null || loss === undefined ? '' : `${(loss * 100).toFixed(1)} %`), 'number'],
  ['RTT', ({ rtt_ms: rtt }) => (rtt === null || rtt === undefined ? '' : `${rtt.toFixed(rtt < 10 ? 1 : 0)} ms`), 'number'],
  ['Worker', ({ worker }) => worker ?? '', 'number'],
  ['Since', ({ since_seconds: seconds }) => since(seconds), 'number'],
  ['From', ({ remote_address: address, client }) => address ?? client ?? ''],
  ['Client', ({ user_agent: agent }) => agent.slice(0, 60)],
];

const encodings = (layers) => (layers.length > 1 ? ` (${layers.length} layers)` : '');

/** `service`: what rooms and participants can be told; null if the server has none. */
export function showRooms(box, rooms, service) {
  if (!rooms.length) return box.replaceChildren(el('p', 'empty', 'Nobody is here.'));
  let rows = ROWS_MAX;
  const known = new Map([...box.querySelectorAll('.room')].map((element) => [element.dataset.room, element]));
  const all = rooms.map((room) => {
    const element = known.get(room.room) ?? el('article', 'room');
    element.dataset.room = room.room;
    fill(element, room, room.sessions.slice(0, rows), service);
    rows -= Math.min(rows, room.sessions.length);
    return element;
  });
  const same = all.length === box.children.length && all.every((element, i) => box.children[i] === element);
  if (!same) box.replaceChildren(...all);
  return undefined;
}

function fill(element, room, sessions, service) {
  const top = el('div', 'room-top');
  top.append(el('h3', '', room.room));
  if (room.live) top.append(el('span', 'live', 'live'));
  if (room.recording) top.append(el('span', 'live', 'being recorded'));
  top.append(el('span', '', `${room.publishers} publish, ${room.viewers} watch`));
  if (service) {
    const acts = el('div', 'acts');
    acts.append(button('Close', () => confirm(`Close the room “${room.room}” and send everybody away?`) && service.close(room.room)));
    top.append(acts);
  }
  const table = el('table');
  const head = el('tr');
  for (const [name, , kind = ''] of COLUMNS) head.append(el('th', kind, name));
  if (service) head.append(el('th'));
  table.append(head, ...sessions.map((session) => row(room, session, service)));
  const scroller = el('div', 'table');
  scroller.append(table);
  if (sessions.length < room.sessions.length) scroller.append(el('p', 'empty', `and ${room.sessions.length - sessions.length} more`));
  const text = top.textContent + table.textContent;
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  // Where the reader has scrolled to.
  const left = element.querySelector('.table')?.scrollLeft ?? 0;
  element.replaceChildren(top, scroller);
  scroller.scrollLeft = left;
}

function row(room, session, service) {
  const line = el('tr');
  line.dataset.session = session.id;
  for (const [, cell, kind = ''] of COLUMNS) line.append(el('td', kind, String(cell(session))));
  if (service && session.identity) {
    const acts = el('div', 'acts');
    const { identity } = session;
    acts.append(button('Mute', () => service.mute(room.room, identity)));
    acts.append(button('Remove', () => confirm(`Remove ${identity} from “${room.room}”?`) && service.remove(room.room, identity)));
    line.append(el('td'));
    line.lastChild.append(acts);
  }
  return line;
}

function button(words, act) {
  const made = el('button', '', words);
  made.type = 'button';
  made.addEventListener('click', act);
  return made;
}

function el(tag, kind = '', words = '') {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.textContent = words;
  return made;
}
