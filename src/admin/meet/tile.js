// One tile: the camera or the screen of one participant, with name, microphone, raised hand, connection and what of the picture arrives.

import { ConnectionQuality, Track } from 'livekit-client';
import { el, icon } from './dom.js';
import { handOf, nameOf } from './people.js';

const QUALITY = {
  [ConnectionQuality.Excellent]: ['3', 'Good connection'],
  [ConnectionQuality.Good]: ['2', 'Fair connection'],
  [ConnectionQuality.Poor]: ['1', 'Poor connection'],
  [ConnectionQuality.Lost]: ['0', 'Connection lost'],
};

export class Tile {
  /**
   * `source` is Track.Source.Camera or ScreenShare. `pinned(tile)` is told when somebody wants it large; `encrypted()` tells whether we
   * have a secret.
   */
  constructor(participant, source, pinned, encrypted) {
    this.encrypted = encrypted;
    this.participant = participant;
    this.source = source;
    this.screen = source === Track.Source.ScreenShare;
    this.key = `${participant.identity}/${source}`;
    this.local = participant.isLocal;
    this.track = null;
    this.rect = null;
    this.video = el('video', { muted: true, playsInline: true, autoplay: true, hidden: true });
    this.video.classList.toggle('mirrored', this.local && !this.screen);
    this.video.addEventListener('resize', () => this.fit());
    this.initials = el('span.avatar', { 'aria-hidden': 'true' });
    this.mic = el('span.tile-mic');
    this.name = el('span.tile-name');
    this.layer = el('span.tile-layer', { hidden: true });
    this.bars = el('span.bars', { role: 'img' }, el('i'), el('i'), el('i'));
    this.hand = el('span.tile-hand', { role: 'img', 'aria-label': 'Hand raised', title: 'Hand raised', hidden: true }, icon('hand'));
    this.words = el('p.tile-words', { hidden: true });
    this.details = el('dl.tile-details');
    this.pin = el('button.tile-pin', { type: 'button' }, icon('pin'));
    this.pin.addEventListener('click', () => pinned(this));
    const foot = el('div.tile-foot', {}, this.mic, this.name, el('span.tile-right', {}, this.layer, this.bars));
    this.element = el('article.tile', { 'data-key': this.key }, this.initials, this.video, this.words, this.hand, this.details, this.pin, foot);
    this.element.addEventListener('dblclick', () => pinned(this));
    this.element.style.setProperty('--hue', hue(participant.identity));
    this.update();
  }

  get publication() {
    return this.participant.getTrackPublication(this.source);
  }

  update() {
    const { participant, publication } = this;
    const name = nameOf(participant);
    this.initials.textContent = initials(name);
    this.name.textContent = this.screen ? `${this.local ? 'Your' : `${name}’s`} screen` : this.local ? `${name} (you)` : name;
    this.element.setAttribute('aria-label', this.name.textContent);
    const readable = this.local || !publication?.isEncrypted || this.encrypted();
    this.show(publication && !publication.isMuted && readable ? publication.videoTrack ?? null : null);

    const muted = !participant.isMicrophoneEnabled;
    this.mic.hidden = this.screen || !muted;
    if (!this.mic.hidden && !this.mic.firstChild) this.mic.append(icon('micOff'));
    this.mic.title = 'Muted';
    this.element.dataset.muted = String(muted);
    this.element.dataset.speaking = String(!this.screen && participant.isSpeaking && !muted);
    this.element.dataset.local = String(this.local);
    this.hand.hidden = this.screen || !handOf(participant);
    this.say();
    const [bars, words] = QUALITY[participant.connectionQuality] ?? ['', 'The connection is not known yet'];
    this.bars.dataset.bars = bars;
    this.bars.setAttribute('aria-label', words);
    this.bars.title = words;
    this.bars.hidden = this.screen || bars === '';
  }

  /** Why there is no picture though there should be one. */
  say() {
    const { publication } = this;
    let words = '';
    if (this.track && this.track.streamState === Track.StreamState.Paused) words = 'The picture is paused: the network carries only the sound.';
    if (!this.local && publication?.isEncrypted && !this.encrypted()) words = 'Encrypted with a secret that you have not given.';
    this.words.textContent = words;
    this.words.hidden = !words;
  }

  show(track) {
    if (track === this.track) return;
    this.track?.detach(this.video);
    this.track = track;
    this.video.hidden = !track;
    this.element.dataset.video = String(Boolean(track));
    if (track) track.attach(this.video);
    this.told(null);
    this.fit();
  }

  /** A camera fills its tile unless that would cut off much of it, which small tiles bear better; a screen is always whole. */
  fit() {
    const { videoWidth, videoHeight } = this.video;
    if (!videoWidth || !this.rect) return;
    const ratio = videoWidth / videoHeight / (this.rect.width / this.rect.height);
    const most = this.rect.width < 260 ? 2.4 : 1.4;
    this.video.dataset.fit = this.screen || ratio < 1 / most || ratio > most ? 'contain' : 'cover';
  }

  /** Where it goes, in pixels of the stage; null hides it, and adaptive streaming then has the server stop sending it. */
  place(rect) {
    this.rect = rect;
    this.element.hidden = !rect;
    if (!rect) return;
    const { style } = this.element;
    style.left = `${rect.left}px`;
    style.top = `${rect.top}px`;
    style.width = `${rect.width}px`;
    style.height = `${rect.height}px`;
    this.element.dataset.size = rect.width < 150 ? 'tiny' : rect.width < 260 ? 'small' : rect.width > 700 ? 'large' : '';
    this.fit();
  }

  /** What stats.js found out about the picture: `{ short, long, rows }`, or null. */
  told(seen) {
    this.layer.hidden = !seen?.short;
    if (seen?.short) this.layer.replaceChildren(seen.short, seen.layer ? el('small', {}, ` ${seen.layer}`) : '');
    this.layer.title = seen?.long ?? '';
    this.details.replaceChildren(...(seen?.rows ?? []).flatMap(([term, value]) => [el('dt', {}, term), el('dd', {}, value)]));
  }

  mark({ pinned }) {
    this.element.dataset.pinned = String(pinned);
    const words = pinned ? 'Unpin' : `Show ${this.screen ? 'this screen' : nameOf(this.participant)} large`;
    this.pin.setAttribute('aria-label', words);
    this.pin.title = words;
  }

  remove() {
    this.show(null);
    this.element.remove();
  }
}

function initials(name) {
  const words = name.trim().split(/[\s._-]+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[words.length - 1]] : [words[0] ?? '?'];
  return letters.map((word) => Array.from(word)[0].toLocaleUpperCase()).join('');
}

/** The same colour for the same identity everywhere. */
function hue(identity) {
  let sum = 7;
  for (const character of identity) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return String(sum);
}
