// What can be done to rooms and participants, by LiveKit's RoomService (Twirp with JSON). The page's token must grant it: `roomAdmin`,
// `roomCreate`. What the server answers is told in words.

import { bearer } from './ask.js';

const PATH = '/twirp/livekit.RoomService/';

export class RoomService {
  /** `tell(words)` shows what came of it. */
  constructor(tell) {
    this.tell = tell;
    this.known = null;
  }

  /** Whether the server has the service and takes this token; asked once for each token. */
  async there(token) {
    if (this.known?.token !== token) this.known = { token, there: (await this.call('ListRooms', {})).ok };
    return this.known.there;
  }

  async remove(room, identity) {
    this.say(await this.call('RemoveParticipant', { room, identity }), `${identity} was removed from ${room}`);
  }

  async close(room) {
    this.say(await this.call('DeleteRoom', { room }), `The room ${room} was closed`);
  }

  /** Mutes every microphone of a participant. */
  async mute(room, identity) {
    const found = await this.call('GetParticipant', { room, identity });
    if (!found.ok) return this.say(found, '');
    const audio = (found.body.tracks ?? []).filter(({ type = 'AUDIO', muted }) => type === 'AUDIO' && !muted);
    for (const { sid } of audio) this.say(await this.call('MutePublishedTrack', { room, identity, track_sid: sid, muted: true }), `${identity} was muted in ${room}`);
    if (!audio.length) this.tell(`${identity} has nothing to mute in ${room}`);
    return undefined;
  }

  say({ ok, words }, done) {
    this.tell(ok ? done : `Refused: ${words}`);
  }

  async call(method, body) {
    try {
      const headers = { 'Content-Type': 'application/json', ...bearer() };
      const response = await fetch(PATH + method, { method: 'POST', headers, body: JSON.stringify(body) });
      const answer = await response.json().catch(() => ({}));
      return response.ok ? { ok: true, body: answer } : { ok: false, words: answer.msg ?? `the server answered ${response.status}` };
    } catch {
      return { ok: false, words: 'the server does not answer' };
    }
  }
}
