// The meeting itself: the room, its events, and the parts of the page that follow them.
//
// Events only mark what has to be redrawn; it is drawn once a frame, so that a hundred people who come at once cost one redraw.

import { Room, RoomEvent, Track, VideoPresets } from 'livekit-client';
import { $, icon, label, toast } from './dom.js';
import { Chat } from './chat.js';
import { Controls } from './controls.js';
import { Keys } from './keys.js';
import { PeopleList, handOf, nameOf } from './people.js';
import { encryption, fragment } from './secret.js';
import { Stage } from './stage.js';
import { Stats } from './stats.js';
import { address } from './token.js';
import { connectWords, deviceWords } from './words.js';

const REDRAW = [
  RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.TrackPublished, RoomEvent.TrackUnpublished,
  RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed, RoomEvent.TrackMuted, RoomEvent.TrackUnmuted, RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished, RoomEvent.ParticipantNameChanged, RoomEvent.ParticipantAttributesChanged,
  RoomEvent.ConnectionQualityChanged, RoomEvent.TrackStreamStateChanged, RoomEvent.Reconnected,
  RoomEvent.ParticipantEncryptionStatusChanged,
];
/** What `?codec=` may ask for; the client's own choice otherwise. */
const CODECS = ['vp8', 'h264', 'vp9', 'av1'];
/** Beyond this many, nobody is told who comes and goes. */
const ANNOUNCED_MAX = 12;

export class Meeting {
  /** `ended(reason)` is told when the meeting is over for us. */
  constructor(ended) {
    this.ended = ended;
    this.room = null;
    this.panelOpen = '';
    this.stage = new Stage(() => this.redraw());
    this.stats = new Stats(this.stage);
    this.chat = new Chat({ isOpen: () => this.panelOpen === 'chat', unread: (count) => this.controls?.unread(count) });
    this.people = new PeopleList(() => this.link(), (participant) => this.stage.pinParticipant(participant));
    this.controls = new Controls(this);
    this.keys = new Keys(this, this.controls);
    $('where-lock').append(icon('lock'));
    label($('side-close'), 'close', 'Close', 'Esc');
    $('side-close').addEventListener('click', () => this.panel(''));
    $('tab-chat').addEventListener('click', () => this.panelOpen !== 'chat' && this.panel('chat'));
    $('tab-people').addEventListener('click', () => this.panelOpen !== 'people' && this.panel('people'));
    $('more-people').addEventListener('click', () => this.panelOpen !== 'people' && this.panel('people'));
    $('alone-copy').addEventListener('click', () => this.controls.run('copy'));
    $('sound').addEventListener('click', () => this.room?.startAudio().catch(() => {}));
    setInterval(() => this.clock(), 1_000);
  }

  link() {
    return location.origin + address(this.name) + fragment(this.secret);
  }

  /** Connects. Throws an Error with words for people. */
  async join({ room: name, token, secret, tracks, devices }) {
    const encrypted = encryption(secret);
    const room = new Room({
      ...encrypted.options,
      adaptiveStream: { pixelDensity: 'screen' },
      dynacast: true,
      audioCaptureDefaults: { deviceId: devices.audioinput || undefined },
      videoCaptureDefaults: { deviceId: devices.videoinput || undefined, resolution: VideoPresets.h720.resolution },
      publishDefaults: { videoCodec: CODECS.find((codec) => codec === new URLSearchParams(location.search).get('codec')) },
    });
    this.listen(room);
    this.chat.start(room);
    const url = location.origin.replace(/^http/, 'ws');
    try {
      await encrypted.start(room);
      await room.connect(url, token);
    } catch (error) {
      encrypted.stop?.();
      throw new Error(connectWords(error), { cause: error });
    }
    this.room = room;
    this.name = name;
    this.secret = secret;
    this.stopEncrypting = encrypted.stop;
    this.strangers = new Set();
    this.since = Date.now();
    $('where-room').replaceChildren(name);
    $('where-lock').hidden = !secret;
    this.clock();
    this.stage.start(room);
    this.stats.start();
    this.wake();
    document.body.dataset.view = 'meeting';
    this.playback();
    this.redraw();
    await this.publish(tracks);
  }

  /** What the join screen has opened goes into the meeting. */
  async publish(tracks) {
    const sources = { audioinput: [Track.Source.Microphone, 'microphone'], videoinput: [Track.Source.Camera, 'camera'] };
    const all = Object.entries(tracks).map(async ([kind, track]) => {
      const [source, what] = sources[kind];
      try {
        track.detach();
        await this.room.localParticipant.publishTrack(track, { source });
      } catch (error) {
        track.stop();
        const forbidden = /permission|insufficient/i.test(error.message);
        toast(forbidden ? `Your access token does not allow sharing your ${what}.` : deviceWords(error, what), 'error');
      }
    });
    await Promise.all(all);
    this.redraw();
  }

  leave() {
    return this.room?.disconnect();
  }

  // ---- events ----

  listen(room) {
    for (const event of REDRAW) room.on(event, () => this.redraw());
    room.on(RoomEvent.TrackSubscribed, (track, publication) => this.heard(room, track, publication));
    room.on(RoomEvent.ActiveSpeakersChanged, (speakers) => {
      this.stage.speakers(speakers);
      if (this.panelOpen === 'people') this.redraw();
    });
    room.on(RoomEvent.TrackUnsubscribed, (track) => {
      if (track.kind === Track.Kind.Audio) track.detach().forEach((element) => element.remove());
    });
    room.on(RoomEvent.EncryptionError, (error, participant) => this.stranger(participant));
    room.on(RoomEvent.AudioPlaybackStatusChanged, () => this.playback());
    room.on(RoomEvent.ParticipantConnected, (participant) => this.announce(`${nameOf(participant)} joined`));
    room.on(RoomEvent.ParticipantDisconnected, (participant) => this.announce(`${nameOf(participant)} left`));
    room.on(RoomEvent.ParticipantAttributesChanged, (changed, participant) => {
      if ('hand' in changed && handOf(participant) && !participant.isLocal) toast(`${nameOf(participant)} raises a hand`);
    });
    room.on(RoomEvent.MediaDevicesError, (error, kind) => {
      if (kind) toast(deviceWords(error, kind === 'videoinput' ? 'camera' : 'microphone'), 'error');
    });
    const lost = () => this.banner('The connection was lost. Trying to get it back…');
    room.on(RoomEvent.SignalReconnecting, lost);
    room.on(RoomEvent.Reconnecting, lost);
    room.on(RoomEvent.Reconnected, () => this.banner(''));
    room.on(RoomEvent.Disconnected, (reason) => this.over(room, reason));
  }

  over(room, reason) {
    if (this.room !== room) return;
    this.room = null;
    this.stopEncrypting?.();
    this.stats.stop();
    this.stage.stop();
    this.chat.clear();
    this.panel('');
    this.controls.closeMenu();
    this.banner('');
    $('sound').hidden = true;
    $('sounds').replaceChildren();
    this.lock?.release().catch(() => {});
    if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    this.ended(reason);
  }

  /**
   * Without the secret, what is encrypted would be played as noise: it is not taken at all. (Not asked of `isE2EEEnabled`, which is false
   * until the encrypting worker has answered: tracks can be there before.)
   */
  heard(room, track, publication) {
    if (publication.isEncrypted && !room.hasE2EESetup) return publication.setSubscribed(false);
    if (track.kind === Track.Kind.Audio) $('sounds').append(track.attach());
    return undefined;
  }

  /** Told once of each. */
  stranger(participant) {
    if (!participant || participant.isLocal || this.strangers?.has(participant.identity)) return;
    this.strangers?.add(participant.identity);
    toast(`What ${nameOf(participant)} sends cannot be read: that is encrypted with another secret.`, 'error');
  }

  announce(words) {
    if (this.room && this.room.remoteParticipants.size <= ANNOUNCED_MAX) toast(words);
  }

  // ---- drawing ----

  redraw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      if (!this.room) return;
      this.stage.update();
      this.controls.draw();
      if (this.panelOpen === 'people') this.people.draw(this.room);
    });
  }

  /** Opens the chat or the people, or closes what is open: also if it is the one that is asked for. */
  panel(name) {
    this.panelOpen = this.panelOpen === name ? '' : name;
    $('meeting-view').dataset.panel = this.panelOpen;
    // What is typed next is for the meeting.
    if ($('side').contains(document.activeElement)) document.activeElement.blur();
    $('side').hidden = !this.panelOpen;
    $('chat').hidden = this.panelOpen !== 'chat';
    $('people').hidden = this.panelOpen !== 'people';
    for (const tab of ['chat', 'people']) $(`tab-${tab}`).setAttribute('aria-selected', String(this.panelOpen === tab));
    if (this.room) this.people.draw(this.room);
    if (this.panelOpen === 'chat') {
      this.chat.read();
      $('chat-text').focus();
    }
    this.redraw();
  }

  banner(words) {
    $('banner').textContent = words;
    $('banner').hidden = !words;
  }

  /** Browsers play no sound before the page has been touched. */
  playback() {
    $('sound').hidden = !this.room || this.room.canPlaybackAudio;
  }

  clock() {
    if (!this.room) return;
    const seconds = Math.floor((Date.now() - this.since) / 1000);
    const two = (number) => String(number).padStart(2, '0');
    const hours = Math.floor(seconds / 3600);
    $('clock').textContent = `${hours ? `${hours}:` : ''}${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  }

  /** Phones keep their screens on. */
  async wake() {
    this.lock = await navigator.wakeLock?.request('screen').catch(() => undefined);
  }
}
