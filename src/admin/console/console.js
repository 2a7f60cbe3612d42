// The admin page: what the server does now, from /metrics, /api/v1/rooms and /api/v1/recordings, and what can be done about it, by LiveKit's RoomService where
// the server has that. Everything is asked for anew every two seconds; what changed between two answers is told as an event.

import { ask, setToken, token } from './ask.js';
import { changes, showEvents } from './events.js';
import { Load } from './load.js';
import { showRecordings } from './recordings.js';
import { showRooms } from './rooms.js';
import { RoomService } from './service.js';

const EVERY_MS = 2_000;

const $ = (id) => document.getElementById(id);
const load = new Load({ graphs: $('graphs'), workers: $('workers'), about: $('about') });
const service = new RoomService((words) => showEvents($('events'), [words]));
let before = null;

$('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  setToken($('token').value.trim());
  $('token').value = '';
  look();
});

async function look() {
  const [metrics, rooms] = await Promise.all([ask('/metrics', 'text'), ask('/api/v1/rooms', 'json')]);
  if (metrics.body) load.show(metrics.body);
  else $('about').textContent = metrics.words;
  const refused = rooms.status === 401 || rooms.status === 403;
  $('token-form').hidden = !refused;
  $('token-words').textContent = refused ? `${rooms.words} For this page: distributary token --room any --list` : '';
  if (!rooms.body) {
    $('rooms').replaceChildren();
    before = null;
    return;
  }
  showRooms($('rooms'), rooms.body.rooms, await service.there(token()) ? service : null);
  if (before) showEvents($('events'), changes(before, rooms.body.rooms));
  before = rooms.body.rooms;
  await showRecordings($('recordings-section'), $('recordings'));
}

async function always() {
  if (!document.hidden) await look().catch((error) => ($('about').textContent = error.message));
  setTimeout(always, EVERY_MS);
}
always();
