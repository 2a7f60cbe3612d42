// The chips of live rooms, from GET /api/v1/rooms.

const PERIOD_MS = 4_000;
const PERIOD_FAILED_MS = 15_000;

/** Keeps `list` filled, `section` shown while there is anything in it. `choose(name, event)` is told of a click. */
export function showRooms({ section, list, token, choose }) {
  let refused = null;
  const look = async () => {
    let pause = PERIOD_MS;
    if (!document.hidden && refused !== token()) {
      const answer = await ask(token());
      refused = answer.refused ? token() : null;
      if (answer.rooms) fill(section, list, answer.rooms, choose);
      else pause = PERIOD_FAILED_MS;
      if (!answer.rooms) section.hidden = true;
    }
    setTimeout(look, pause);
  };
  look();
}

async function ask(token) {
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch('/api/v1/rooms', { headers, cache: 'no-store' });
    if (!response.ok) return { refused: response.status === 401 || response.status === 403 };
    const body = await response.json();
    return { rooms: (Array.isArray(body) ? body : (body?.rooms ?? [])).map(readRoom).filter(({ name }) => name) };
  } catch {
    return {};
  }
}

/** Name, whether it is live, how many watch: from whichever of the usual fields the server fills. */
function readRoom(room) {
  const sessions = Array.isArray(room.sessions) ? room.sessions : [];
  const publishes = (session) => /publish|whip|ingest/i.test(String(session.purpose ?? session.role ?? ''));
  const viewers = room.viewers ?? sessions.filter((session) => !publishes(session)).length;
  const live = room.live ?? sessions.some(publishes);
  return { name: String(room.room ?? room.name ?? ''), live: Boolean(live), viewers: Number(viewers) || 0 };
}

function fill(section, list, rooms, choose) {
  const key = JSON.stringify(rooms);
  section.hidden = rooms.length === 0;
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.room : null;
  rooms.sort((a, b) => b.live - a.live || a.name.localeCompare(b.name));
  list.replaceChildren(...rooms.map((room) => chip(room, choose)));
  if (focused !== null) [...list.querySelectorAll('a')].find(({ dataset }) => dataset.room === focused)?.focus();
}

function chip({ name, live, viewers }, choose) {
  const link = document.createElement('a');
  link.className = live ? 'chip live' : 'chip';
  link.href = `/?${new URLSearchParams({ room: name, do: 'watch' })}`;
  link.dataset.room = name;
  link.title = `Watch ${name}`;
  const count = document.createElement('span');
  count.textContent = live ? `${viewers} watching` : `${viewers} waiting`;
  link.append(name, ' ', count);
  link.addEventListener('click', (event) => choose(name, event));
  const item = document.createElement('li');
  item.append(link);
  return item;
}
