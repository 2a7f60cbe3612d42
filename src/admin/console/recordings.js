// The recordings there are, the newest first: what each is, and where it can be read. The section is there only where the server records.

import { ask, token } from './ask.js';

/** Lines shown; the API has more. */
const LINES_MAX = 50;

const COLUMNS = [
  ['Room', ({ room }) => room],
  ['Began', ({ began }) => began.replace('T', ' ').replace(/\.\d+Z$/, '')],
  ['State', ({ state, upload }) => (upload && upload.state !== 'waiting' ? `${state}, ${upload.state}` : state).replace('_', ' ')],
  ['Length', ({ seconds }) => length(seconds), 'number'],
  ['Size', ({ bytes }) => `${(bytes / 2 ** 20).toFixed(1)} MiB`, 'number'],
  ['Gaps', ({ gaps }) => gaps ?? '', 'number'],
];

function length(seconds) {
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, '0');
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

export async function showRecordings(section, box) {
  const answer = await ask('/api/v1/recordings', 'json');
  // 501: nothing is recorded here; 403: this token may not know.
  section.hidden = !answer.body;
  if (!answer.body) return;
  const all = answer.body.recordings.slice(0, LINES_MAX);
  const text = JSON.stringify(all);
  if (box.dataset.text === text) return;
  box.dataset.text = text;
  if (!all.length) {
    box.textContent = 'Nothing has been recorded yet.';
    return;
  }
  const table = document.createElement('table');
  const head = table.insertRow();
  for (const [name, , kind = ''] of COLUMNS) {
    const cell = document.createElement('th');
    cell.className = kind;
    cell.textContent = name;
    head.append(cell);
  }
  head.append(document.createElement('th'));
  for (const recording of all) {
    const line = table.insertRow();
    line.dataset.state = recording.state;
    for (const [, cell, kind = ''] of COLUMNS) {
      const made = line.insertCell();
      made.className = kind;
      made.textContent = cell(recording);
    }
    const link = document.createElement('a');
    // A link sends no header.
    link.href = recording.url + (token() ? `?access_token=${encodeURIComponent(token())}` : '');
    link.textContent = decodeURIComponent(recording.url.split('/').at(-1));
    line.insertCell().append(link);
  }
  box.replaceChildren(table);
}
