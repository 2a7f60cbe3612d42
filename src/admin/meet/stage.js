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
    let screen = false;
    for (const [key, [participant, source]] of wanted) {
      if (this.tiles.has(key)) continue;
      const tile = new Tile(participant, source, (tile) => this.pin(tile));
      this.tiles.set(key, tile);
      $('tiles').append(tile.element);
      screen ||= tile.screen && !tile.local;
    }
    if (this.pinned && !this.tiles.has(this.pinned)) this.pinned = null;
    if (screen && this.layout === 'grid') this.setLayout('speaker');
    this.order = [...wanted.keys()].map((key) => this.tiles.get(key));
    for (const tile of this.tiles.values()) tile.update();
    this.arrange();
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
    const places = new Map();
    shown.forEach((tile, i) => {
      const row = Math.floor(i / cell.columns);
      const inRow = Math.min(cell.columns, shown.length - row * cell.columns);
      const left = (width - inRow * cell.width - (inRow - 1) * GAP) / 2 + (i % cell.columns) * (cell.width + GAP);
      const top = (height - cell.rows * cell.height - (cell.rows - 1) * GAP) / 2 + row * (cell.height + GAP);
      places.set(tile, { left, top, width: cell.width, height: cell.height });
    });
    return places;
  }

  focus(width, height) {
    $('page-back').hidden = $('page-on').hidden = true;
    const large = this.large();
    const others = this.order.filter((tile) => tile !== large);
    const places = new Map();
    const beside = width > height * 1.1;
    // Beside: a column of 16:9 tiles at the right. Below: a row.
    const thumb = beside ? { width: Math.max(150, Math.min(230, width * 0.19)) } : { width: Math.max(112, (width - 2 * GAP) / 3) };
    thumb.height = (thumb.width * 9) / 16;
    if (!beside) thumb.height = Math.min((thumb.width * 3) / 4, height * 0.22);
    const room = beside ? height : width;
    const size = beside ? thumb.height : thumb.width;
    const fit = Math.max(1, Math.floor((room + GAP) / (size + GAP)));
    const shown = others.length > fit ? others.toSorted((a, b) => spoke(b) - spoke(a)).slice(0, fit) : others;
    const rest = others.length - shown.length;
    $('more-people').hidden = rest === 0;
    $('more-people').textContent = `and ${rest} more`;
    const used = shown.length * size + (shown.length - 1) * GAP;
    shown.forEach((tile, i) => {
      const along = Math.max(0, (room - used) / 2) + i * (size + GAP);
      const at = beside ? { left: width - thumb.width, top: along } : { left: along, top: height - thumb.height };
      places.set(tile, { ...at, ...thumb });
    });
    const main = beside ? { width: width - thumb.width - GAP, height } : { width, height: height - thumb.height - GAP };
    places.set(large, { left: 0, top: 0, ...main });
    return places;
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
