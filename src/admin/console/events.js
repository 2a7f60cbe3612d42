// What changed between two looks at the rooms, in words. Who comes and goes within two seconds is not seen.

const EVENTS_MAX = 300;

const who = ({ identity, id }) => identity || `session ${id}`;
const does = ({ purpose }) => (purpose === 'publish' ? 'publishes' : purpose === 'watch' ? 'watches' : 'is');

export function changes(before, now) {
  const words = [];
  const [past, present] = [before, now].map((rooms) => new Map(rooms.map((room) => [room.room, room])));
  for (const [name, room] of present) {
    const old = past.get(name);
    if (!old) words.push(`The room ${name} began`);
    words.push(...inside(name, old?.sessions ?? [], room.sessions));
    if (Boolean(old?.recording) !== room.recording) words.push(room.recording ? `${name} is being recorded` : `The recording of ${name} ended`);
  }
  for (const [name, room] of past) {
    if (present.has(name)) continue;
    words.push(...inside(name, room.sessions, []), `The room ${name} ended`);
  }
  return words;
}

function inside(room, before, now) {
  const words = [];
  const [past, present] = [before, now].map((sessions) => new Map(sessions.map((session) => [session.id, session])));
  for (const [id, session] of present) {
    if (!past.has(id)) words.push(`${who(session)} ${does(session)} in ${room}`);
    else if (past.get(id).state !== session.state) words.push(`${who(session)} in ${room}: ${session.state}`);
  }
  for (const [id, session] of past) {
    if (!present.has(id)) words.push(`${who(session)} left ${room}`);
  }
  return words;
}

/** The newest first. */
export function showEvents(list, words) {
  for (const text of words) {
    const line = document.createElement('li');
    const time = document.createElement('time');
    time.textContent = new Date().toLocaleTimeString();
    line.append(time, text);
    list.prepend(line);
  }
  while (list.children.length > EVENTS_MAX) list.lastChild.remove();
}
