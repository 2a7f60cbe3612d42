// Who is where on the stage. Two layouts: a grid of equal tiles, over pages if they would get too small, and a speaker (or whatever is
// pinned, or a shared screen) large with the others in a strip.
//
// Tiles that are not shown are hidden, which tells adaptive streaming that nobody looks: the server stops sending their pictures.

import { Track } from 'livekit-client';
import { $, label } from './dom.js';
import { everybody } from './people.js';
import { Tile } from './tile.js';

const GAP = 8;
const TILES_A_PAGE_MAX = 25;
/** Beside a large tile above them. */
const STRIP_MAX = 6;
const STRIP_WIDTH_MIN = 110;
const TILE_WIDTH_MIN = { wide: 220, narrow: 150 };
/** A speaker that is silent this long may be followed by another in the large tile. */
const SPEAKER_HOLD_MS = 1_500;

export class Stage {
  constructor(onChange) {
    this.onChange = onChange;
    this.tiles = new Map();
    this.layout = 'grid';
    this.pinned = null;
    this.page = 0;
    this.speaker = null;
    this.speakerSince = 0;
    label($('page-back'), 'back', 'Previous page');
    label($('page-on'), 'on', 'Next page');
    $('page-back').addEventListener('click', () => this.turn(-1));
    $('page-on').addEventListener('click', () => this.turn(1));
    new ResizeObserver(() => this.arrange()).observe($('stage'));
  }

  start(room) {
    this.room = room;
    this.pinned = null;
    this.page = 0;
    this.speaker = null;
  }

  stop() {
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.room = null;
  }

  setLayout(layout) {
    this.layout = layout;
    this.forScreen = false;
    if (layout === 'grid') this.pinned = null;
    this.page = 0;
    this.onChange();
    this.arrange();
  }

  /** Pins a tile, or lets go of it. */
  pin(tile) {
    const key = tile.key;
    if (this.pinned === key) {
      this.pinned = null;
    } else {
      this.pinned = key;
      this.layout = 'speaker';
      this.forScreen = false;
    }
    this.onChange();
    this.arrange();
  }

  pinParticipant(participant) {
    const tile = this.tiles.get(`${participant.identity}/${Track.Source.ScreenShare}`) ?? this.tiles.get(`${participant.identity}/${Track.Source.Camera}`);
    if (tile) this.pin(tile);
  }

  turn(by) {
    this.page += by;
    this.arrange();
  }

  /** Makes and removes tiles so that they are those of the room, and redraws all. */
  update() {
    if (!this.room) return;
    const wanted = new Map();
    for (const participant of everybody(this.room)) {
      for (const source of [Track.Source.ScreenShare, Track.Source.Camera]) {
        if (source === Track.Source.ScreenShare && !participant.getTrackPublication(source)) continue;
        wanted.set(`${participant.identity}/${source}`, [participant, source]);
      }
    }
    for (const [key, tile] of this.tiles) {
      // The same identity may have come back as a new participant.
      if (wanted.get(key)?.[0] === tile.participant) continue;
      tile.remove();
      this.tiles.delete(key);
    }
    const screens = this.screens();
    for (const [key, [participant, source]] of wanted) {
      if (this.tiles.has(key)) continue;
      const tile = new Tile(participant, source, (pinned) => this.pin(pinned), () => this.room?.hasE2EESetup);
      this.tiles.set(key, tile);
      $('tiles').append(tile.element);
    }
    if (this.pinned && !this.tiles.has(this.pinned)) this.pinned = null;
    this.order = [...wanted.keys()].map((key) => this.tiles.get(key));
    this.follow(screens, this.screens());
    for (const tile of this.tiles.values()) tile.update();
    this.arrange();
  }

  /** How many screens of others there are. */
  screens() {
    return [...this.tiles.values()].filter((tile) => tile.screen && !tile.local).length;
  }

  /** A screen that appears is shown large; when the last one is gone, who had the grid gets it back. */
  follow(before, now) {
    if (now > before && this.layout === 'grid') {
      this.setLayout('speaker');
      this.forScreen = true;
    } else if (now === 0 && this.forScreen) {
      this.setLayout('grid');
    }
  }

  /** Follows who speaks, not at every breath. */
  speakers(speakers) {
    const now = Date.now();
    const other = speakers.find((participant) => !participant.isLocal);
    for (const participant of speakers) participant.spokeAt = now;
    if (other && other !== this.speaker && (now - this.speakerSince > SPEAKER_HOLD_MS || !this.speaker?.isSpeaking)) {
      this.speaker = other;
      this.speakerSince = now;
    }
    for (const tile of this.tiles.values()) tile.update();
    if (this.layout === 'speaker') this.arrange();
  }

  arrange() {
    if (!this.room || !this.order) return;
    const { clientWidth: width, clientHeight: height } = $('stage');
    if (!width || !height) return;
    const alone = this.room.remoteParticipants.size === 0;
    $('alone').hidden = !alone;
    const places = this.layout === 'speaker' && this.order.length > 1 ? this.focus(width, height) : this.grid(width, height);
    for (const tile of this.tiles.values()) {
      tile.place(places.get(tile) ?? null);
      tile.mark({ pinned: tile.key === this.pinned });
    }
  }

  grid(width, height) {
    const least = width < 600 ? TILE_WIDTH_MIN.narrow : TILE_WIDTH_MIN.wide;
    let fit = Math.min(this.order.length, TILES_A_PAGE_MAX);
    while (fit > 1 && grid(fit, width, height).width < least) fit -= 1;
    const pages = Math.ceil(this.order.length / fit);
    this.page = Math.max(0, Math.min(this.page, pages - 1));
    $('page-back').hidden = this.page === 0;
    $('page-on').hidden = this.page >= pages - 1;
    $('more-people').hidden = true;
    let order = this.order;
    // With several pages those who spoke last come to the first.
    if (pages > 1) order = [order[0], ...order.slice(1).sort((a, b) => spoke(b) - spoke(a))];
    const shown = order.slice(this.page * fit, (this.page + 1) * fit);
    // Every page has tiles of one size.
    const cell = grid(pages > 1 ? fit : shown.length, width, height);
    const slots = cells(shown.length, cell, width, height);
    const places = new Map(shown.map((tile, i) => [tile, slots[i]]));
    return places;
  }

  focus(width, height) {
    $('page-back').hidden = $('page-on').hidden = true;
    const large = this.large();
    const others = this.order.filter((tile) => tile !== large);
    const places = new Map();
    let slots;
    if (width > height * 1.1) {
      // The others in a column at the right.
      const w = Math.max(150, Math.min(230, width * 0.19));
      const h = (w * 9) / 16;
      const count = Math.min(others.length, Math.max(1, Math.floor((height + GAP) / (h + GAP))));
      const top = (height - count * h - (count - 1) * GAP) / 2;
      slots = Array.from({ length: count }, (_, i) => ({ left: width - w, top: top + i * (h + GAP), width: w, height: h }));
      places.set(large, { left: 0, top: 0, width: width - w - GAP, height });
    } else {
      // The others in a grid below.
      const main = Math.min(height * 0.55, width * 0.8);
      const rest = height - main - GAP;
      let count = Math.min(others.length, STRIP_MAX);
      while (count > 1 && grid(count, width, rest).width < STRIP_WIDTH_MIN) count -= 1;
      slots = cells(count, grid(count, width, rest), width, rest).map((slot) => ({ ...slot, top: slot.top + main + GAP }));
      places.set(large, { left: 0, top: 0, width, height: main });
    }
    const rest = others.length > slots.length ? others.length - slots.length + 1 : 0;
    this.tellMore(rest, slots);
    const shown = rest ? others.toSorted((a, b) => spoke(b) - spoke(a)).slice(0, slots.length - 1) : others;
    shown.forEach((tile, i) => places.set(tile, slots[i]));
    return places;
  }

  /** The last place of the strip says how many have none. */
  tellMore(count, slots) {
    const button = $('more-people');
    button.hidden = count === 0;
    if (!count) return;
    button.textContent = `+${count}`;
    button.setAttribute('aria-label', `${count} more people`);
    const { left, top, width, height } = slots[slots.length - 1];
    Object.assign(button.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  }

  /** What is pinned, else a screen of somebody else, else who speaks, else the first other. */
  large() {
    const camera = this.speaker && this.tiles.get(`${this.speaker.identity}/${Track.Source.Camera}`);
    return this.tiles.get(this.pinned) ?? this.order.find((tile) => tile.screen && !tile.local) ?? camera ?? this.order.find((tile) => !tile.local) ?? this.order[0];
  }
}

const spoke = (tile) => (tile.screen ? Infinity : tile.participant.spokeAt ?? 0);

/** The columns and rows that make `count` tiles largest; they may be between 16:9 and upright. */
function grid(count, width, height) {
  let best = { area: 0 };
  const [narrowest, widest] = width < height ? [0.75, 16 / 9] : [4 / 3, 16 / 9];
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    let w = (width - (columns - 1) * GAP) / columns;
    let h = (height - (rows - 1) * GAP) / rows;
    if (w / h > widest) w = h * widest;
    if (w / h < narrowest) h = w / narrowest;
    if (w * h > best.area) best = { area: w * h, columns, rows, width: Math.floor(w), height: Math.floor(h) };
  }
  return best;
}

/** Where `count` tiles of a grid are; the last row is in the middle. */
function cells(count, cell, width, height) {
  return Array.from({ length: count }, (_, i) => {
    const row = Math.floor(i / cell.columns);
    const inRow = Math.min(cell.columns, count - row * cell.columns);
    const left = (width - inRow * cell.width - (inRow - 1) * GAP) / 2 + (i % cell.columns) * (cell.width + GAP);
    const top = (height - cell.rows * cell.height - (cell.rows - 1) * GAP) / 2 + row * (cell.height + GAP);
    return { left, top, width: cell.width, height: cell.height };
  });
}
