// The screen before the meeting: a name, a camera and a microphone to choose with a preview of both, and the access token where the server
// wants one. It works without any device too: one joins to watch and listen.
//
// The tracks of the preview go on into the meeting, so that nothing is opened twice.

import { Room, createAudioAnalyser, createLocalAudioTrack, createLocalVideoTrack } from 'livekit-client';
import { $, label, recall, remember, el } from './dom.js';
import { secretFromAddress } from './secret.js';
import { deviceWords } from './words.js';
import { address, claimsOf, keepToken, newToken, roomFromAddress, serverMakesTokens, tokenFromAddress, tokenProblem } from './token.js';

const KINDS = {
  audioinput: { what: 'microphone', create: (deviceId) => createLocalAudioTrack({ deviceId }), button: 'preview-mic', icons: ['mic', 'micOff'], key: 'm' },
  videoinput: {
    what: 'camera', create: (deviceId) => createLocalVideoTrack({ deviceId, resolution: { width: 1280, height: 720, frameRate: 30 } }),
    button: 'preview-camera', icons: ['camera', 'cameraOff'], key: 'v',
  },
};

export class JoinScreen {
  /** `join({ room, token, secret, tracks, devices })` connects; it throws what went wrong. */
  constructor(join) {
    this.join = join;
    this.tracks = {};
    this.problems = {};
    this.wanted = { audioinput: recall(localStorage, 'audioinput.off') === '', videoinput: recall(localStorage, 'videoinput.off') === '' };
    $('join-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.submit();
    });
    for (const kind of Object.keys(KINDS)) {
      $(KINDS[kind].button).addEventListener('click', () => this.want(kind, !this.wanted[kind]));
      $(`pick-${kind}`).addEventListener('change', ({ target }) => {
        remember(localStorage, kind, target.value);
        this.want(kind, true);
      });
    }
    navigator.mediaDevices?.addEventListener?.('devicechange', () => this.list());
  }

  async show() {
    this.room = roomFromAddress();
    this.token = tokenFromAddress(this.room);
    const name = this.token && claimsOf(this.token)?.name;
    $('my-name').value = name || recall(localStorage, 'name');
    $('secret').value ||= secretFromAddress();
    $('secret-field').open = $('secret').value !== '';
    // A name in a token is its maker's choice.
    $('my-name').disabled = Boolean(name);
    $('room-name').value ||= (this.token && claimsOf(this.token)?.video?.room) || '';
    $('room-field').hidden = this.room !== '';
    $('room-name').required = this.room === '';
    $('join-title').textContent = this.room || 'Start a meeting';
    $('token-room').textContent = this.room || 'NAME';
    document.title = this.room ? `${this.room} · Distributary` : 'Meeting · Distributary';
    for (const kind of Object.keys(KINDS)) this.draw(kind);
    const makes = this.token ? Promise.resolve(true) : serverMakesTokens(this.room);
    await Promise.all(Object.keys(KINDS).map((kind) => (this.wanted[kind] ? this.open(kind) : null)));
    await this.list();
    if (!(await makes)) this.askForToken('This server wants an access token from whoever joins.', true);
  }

  async submit() {
    const button = $('join');
    if (button.disabled) return;
    const room = this.room || $('room-name').value.trim();
    const name = $('my-name').value.trim();
    this.problem('');
    if (!room || !name) return;
    button.disabled = true;
    button.textContent = 'Joining…';
    try {
      const token = await this.tokenFor(room, name);
      if (!token) return;
      if (!this.room) history.replaceState(null, '', address(room) + location.search + location.hash);
      if (!$('my-name').disabled) remember(localStorage, 'name', name);
      await this.join({ room, token, secret: $('secret').value, tracks: this.tracks, devices: this.devices() });
      this.tracks = {};
      this.stopLevel();
    } catch (error) {
      this.problem(error.message);
    } finally {
      button.disabled = false;
      button.textContent = 'Join';
    }
  }

  /** Undefined after saying what is wrong. */
  async tokenFor(room, name) {
    const typed = $('token').value.trim();
    const token = typed || this.token;
    if (!token) {
      if (!$('token-field').hidden) return void this.askForToken('Paste the access token that you were given for this meeting.');
      return newToken(room, name);
    }
    const wrong = tokenProblem(token, room);
    if (wrong) return void this.askForToken(wrong);
    keepToken(room, token);
    return token;
  }

  /** `expected`: nothing went wrong yet. */
  askForToken(words, expected = false) {
    $('token-field').hidden = false;
    this.problem(words, expected);
    $('token').focus();
  }

  problem(words, expected = false) {
    $('join-problem').dataset.expected = String(expected);
    $('join-problem').textContent = words;
    $('join-problem').hidden = !words;
  }

  // ---- devices ----

  devices() {
    return Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, $(`pick-${kind}`).value || recall(localStorage, kind)]));
  }

  async want(kind, wanted) {
    this.wanted[kind] = wanted;
    remember(localStorage, `${kind}.off`, wanted ? '' : 'off');
    this.close(kind);
    if (wanted) await this.open(kind);
    await this.list();
  }

  async open(kind) {
    const opening = (this.opening = { ...this.opening, [kind]: {} })[kind];
    this.problems[kind] = '';
    this.draw(kind);
    try {
      const track = await KINDS[kind].create(recall(localStorage, kind) || undefined);
      // Another wish may have come while the browser asked.
      if (this.opening[kind] !== opening || !this.wanted[kind]) return track.stop();
      this.close(kind);
      this.tracks[kind] = track;
      if (kind === 'videoinput') track.attach($('preview'));
      else this.startLevel(track);
    } catch (error) {
      this.problems[kind] = deviceWords(error, KINDS[kind].what);
    }
    this.draw(kind);
  }

  close(kind) {
    if (kind === 'audioinput') this.stopLevel();
    this.tracks[kind]?.detach();
    this.tracks[kind]?.stop();
    delete this.tracks[kind];
    this.draw(kind);
  }

  draw(kind) {
    const { what, button, icons, key } = KINDS[kind];
    const on = Boolean(this.tracks[kind]);
    label($(button), icons[on ? 0 : 1], on ? `Turn the ${what} off` : `Turn the ${what} on`, key);
    $(button).setAttribute('aria-pressed', String(on));
    if (kind === 'videoinput') $('preview').hidden = !on;
    const words = [];
    if (!on) words.push(this.wanted[kind] && !this.problems[kind] ? `Starting the ${what}…` : '');
    this.words = { ...this.words, [kind]: this.problems[kind] || words[0] || '' };
    const camera = this.tracks.videoinput ? '' : this.words.videoinput || 'Your camera is off.';
    $('preview-words').textContent = [camera, this.problems.audioinput].filter(Boolean).join(' ');
  }

  /** Fills the two lists. Names are there only once the browser has given access. */
  async list() {
    for (const [kind, { what }] of Object.entries(KINDS)) {
      const devices = navigator.mediaDevices ? await Room.getLocalDevices(kind, false).catch(() => []) : [];
      const known = devices.filter((device) => device.deviceId);
      const current = (await this.tracks[kind]?.getDeviceId(false)) || recall(localStorage, kind);
      const options = known.map((device, i) => el('option', { value: device.deviceId }, device.label || `${what} ${i + 1}`));
      const none = devices.length ? `Default ${what}` : `No ${what} found`;
      $(`pick-${kind}`).replaceChildren(...(options.length ? options : [el('option', { value: '' }, none)]));
      if (known.some((device) => device.deviceId === current)) $(`pick-${kind}`).value = current;
      $(`pick-${kind}`).disabled = !known.length;
    }
  }

  // ---- level of the microphone ----

  startLevel(track) {
    this.stopLevel();
    const { calculateVolume, cleanup } = createAudioAnalyser(track, { cloneTrack: true, smoothingTimeConstant: 0.6 });
    const timer = setInterval(() => ($('preview-level').value = Math.min(1, calculateVolume() * 2.5)), 80);
    this.level = () => {
      clearInterval(timer);
      cleanup().catch(() => {});
      $('preview-level').value = 0;
    };
  }

  stopLevel() {
    this.level?.();
    this.level = null;
  }
}
