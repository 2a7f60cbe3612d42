// The few things every part of the page does with the document: finding and making elements, icons, short messages, and memory
// that may be forbidden.

export const $ = (id) => document.getElementById(id);

/** An element: `el('p.hint', { title }, 'text', child)`. Properties that begin with `aria-` or `data-`, and `role`, become attributes. */
export function el(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split('.');
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$)/.test(key)) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Drawn on 24×24, in the line of the start page's icons. */
const ICONS = {
  mic: 'M12 3.5a2.7 2.7 0 0 0-2.7 2.7v5.6a2.7 2.7 0 0 0 5.4 0V6.2A2.7 2.7 0 0 0 12 3.5zM6.2 11.5a5.8 5.8 0 0 0 11.6 0M12 17.4v3.1',
  micOff: 'M14.7 11V6.2a2.7 2.7 0 0 0-5.2-1M9.3 9.3v2.5a2.7 2.7 0 0 0 4.2 2.2M6.2 11.5a5.8 5.8 0 0 0 9 4.8M17.8 11.5c0 1-.2 1.8-.6 2.6M12 17.4v3.1M4 4l16 16',
  camera: 'M3.5 7h11v10h-11zM14.5 10.5l6-3v9l-6-3z',
  cameraOff: 'M8.5 7h6v6M14.5 10.5l6-3v9l-4-2M14.5 15v2h-11V7h1M4 4l16 16',
  screen: 'M3.5 5h17v11h-17zM9 20h6M12 16v4M12 13V8M9.8 10.2L12 8l2.2 2.2',
  screenStop: 'M3.5 5h17v11h-17zM9 20h6M12 16v4M10 8.5l4 4M14 8.5l-4 4',
  hand: 'M8 13V6.2a1.3 1.3 0 0 1 2.6 0V11M10.6 10.5V4.8a1.3 1.3 0 0 1 2.6 0v5.7M13.2 10.8V5.8a1.3 1.3 0 0 1 2.6 0v7.4M15.8 11V8.4a1.3 1.3 0 0 1 2.6 0v6.1c0 3.5-2.4 6-5.7 6-2.6 0-4.2-1.2-5.4-3.4l-2.4-4.3c-.5-1 .9-2 1.8-1.1L8 13',
  chat: 'M4 5h16v11.5H10.5L6.5 20v-3.5H4zM8 9.2h8M8 12.4h5',
  people: 'M9 11.2a3.1 3.1 0 1 0 0-6.2 3.1 3.1 0 0 0 0 6.2zM3.2 19c.3-3.4 2.6-5.2 5.8-5.2s5.5 1.8 5.8 5.2zM15.5 5.4a3 3 0 0 1 0 5.5M17.2 14c2.1.6 3.4 2.3 3.6 5',
  grid: 'M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z',
  speaker: 'M4 5h16v9.5H4zM4 16.5h4.6v3H4zM9.7 16.5h4.6v3H9.7zM15.4 16.5H20v3h-4.6z',
  more: 'M5 12a.8.8 0 1 0 1.6 0 .8.8 0 1 0-1.6 0zM11.2 12a.8.8 0 1 0 1.6 0 .8.8 0 1 0-1.6 0zM17.4 12a.8.8 0 1 0 1.6 0 .8.8 0 1 0-1.6 0z',
  leave: 'M12 8.8c-4.2 0-8.2 1.4-8.9 4.3-.2 1 0 2 .4 2.7.2.4.7.5 1.1.4l3-.9c.4-.1.7-.5.7-.9v-1.9c2.4-.7 5-.7 7.4 0v1.9c0 .4.3.8.7.9l3 .9c.4.1.9 0 1.1-.4.4-.7.6-1.7.4-2.7-.7-2.9-4.7-4.3-8.9-4.3z',
  close: 'M6 6l12 12M18 6L6 18',
  send: 'M4 12l16-7.5-5.5 15.5-3-6zM11.5 14L20 4.5',
  pin: 'M9 4h6l-.6 6 3.1 3.5H6.5L9.6 10zM12 13.5V20',
  up: 'M7 14l5-5 5 5',
  back: 'M14.5 6l-6 6 6 6',
  on: 'M9.5 6l6 6-6 6',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  link: 'M10 14a4 4 0 0 0 5.7 0l2.8-2.8a4 4 0 0 0-5.7-5.7l-1 1M14 10a4 4 0 0 0-5.7 0l-2.8 2.8a4 4 0 0 0 5.7 5.7l1-1',
  details: 'M5 19v-5M10 19V9M15 19v-8M20 19V5',
  devices: 'M4 7h9M17 7h3M4 12h3M11 12h9M4 17h7M15 17h5M13 7a2 2 0 1 0 4 0 2 2 0 0 0-4 0zM7 12a2 2 0 1 0 4 0 2 2 0 0 0-4 0zM11 17a2 2 0 1 0 4 0 2 2 0 0 0-4 0z',
  lock: 'M6.5 10.5h11v9h-11zM8.8 10.5V8a3.2 3.2 0 0 1 6.4 0v2.5M12 14v2.2',
  keyboard: 'M3.5 6.5h17v11h-17zM7 10h.01M10.3 10h.01M13.6 10h.01M17 10h.01M8 14h8',
  full: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5',
  sound: 'M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM15.5 9a4 4 0 0 1 0 6M18 6.5a7.5 7.5 0 0 1 0 11',
};

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** Puts an icon into a button, and says what it does. `key` is its letter on the keyboard. */
export function label(button, name, words, key = '') {
  if (button.dataset.icon !== name) {
    button.dataset.icon = name;
    button.querySelector('svg')?.remove();
    button.prepend(icon(name));
  }
  button.setAttribute('aria-label', words);
  button.title = key ? `${words} (${key.toUpperCase()})` : words;
}

const TOASTS_MAX = 4;

/** A short message that goes by itself. */
export function toast(words, kind = 'news') {
  const box = $('toasts');
  const line = el('p.toast', { 'data-kind': kind }, words);
  while (box.children.length >= TOASTS_MAX) box.firstChild.remove();
  box.append(line);
  setTimeout(() => line.remove(), kind === 'error' ? 8_000 : 4_000);
}

export async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    toast(done);
  } catch {
    toast(text);
  }
}

/** Storage that forgets where the browser forbids it. */
export function remember(store, key, value) {
  try {
    if (value) store.setItem(`distributary.meet.${key}`, value);
    else store.removeItem(`distributary.meet.${key}`);
  } catch { /* private window */ }
}

export function recall(store, key) {
  try {
    return store.getItem(`distributary.meet.${key}`) ?? '';
  } catch {
    return '';
  }
}
