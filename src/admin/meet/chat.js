// Chat: text streams of the topic `lk.chat`, as LiveKit's own components send them, so that other apps in the room see the same chat; the
// older chat messages of data packets are read too. What is shown is bounded.

import { RoomEvent } from 'livekit-client';
import { $, el, label, toast } from './dom.js';
import { nameOf } from './people.js';

const TOPIC = 'lk.chat';
const MESSAGES_MAX = 500;
const TEXT_CHARS_MAX = 8_000;
/** Messages of one sender within this time stand under one name. */
const TOGETHER_MS = 120_000;
const IDS_MAX = 1_000;

export class Chat {
  /** `isOpen()`: whether messages can be seen. `unread(count)` is told how many were not. */
  constructor({ isOpen, unread }) {
    this.isOpen = isOpen;
    this.unread = unread;
    this.count = 0;
    label($('chat-send'), 'send', 'Send');
    $('chat-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.send();
    });
    $('chat-text').addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    $('chat-text').addEventListener('input', () => this.grow());
  }

  start(room) {
    this.room = room;
    this.seen = new Set();
    this.last = null;
    room.registerTextStreamHandler(TOPIC, async (reader, { identity }) => {
      const text = await reader.readAll().catch(() => null);
      if (text !== null) this.arrived(reader.info.id, room.getParticipantByIdentity(identity), identity, text, reader.info.timestamp);
    });
    room.on(RoomEvent.ChatMessage, (message, participant) => {
      if (!participant?.isLocal) this.arrived(message.id, participant, '', message.message, message.timestamp);
    });
  }

  clear() {
    $('messages').replaceChildren();
    this.last = null;
    this.read();
  }

  async send() {
    const text = $('chat-text').value.trim();
    if (!text || this.sending) return;
    this.sending = true;
    try {
      const { id } = await this.room.localParticipant.sendText(text, { topic: TOPIC });
      $('chat-text').value = '';
      this.grow();
      this.arrived(id, this.room.localParticipant, '', text, Date.now());
    } catch (error) {
      toast(`The message could not be sent: ${error.message}`, 'error');
    } finally {
      this.sending = false;
    }
  }

  arrived(id, participant, identity, text, time) {
    if (this.seen.has(id)) return;
    if (this.seen.size >= IDS_MAX) this.seen.delete(this.seen.values().next().value);
    this.seen.add(id);
    const name = participant ? nameOf(participant) : identity || 'Somebody';
    const list = $('messages');
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    while (list.children.length >= MESSAGES_MAX) list.firstChild.remove();
    list.append(this.line(participant?.identity ?? identity, name, participant?.isLocal, text.slice(0, TEXT_CHARS_MAX), time || Date.now()));
    if (atEnd || participant?.isLocal) list.scrollTop = list.scrollHeight;
    if (this.isOpen() || participant?.isLocal) return;
    this.count += 1;
    this.unread(this.count);
    toast(`${name}: ${text.length > 80 ? `${text.slice(0, 80)}…` : text}`);
  }

  line(identity, name, local, text, time) {
    const again = this.last?.identity === identity && time - this.last.time < TOGETHER_MS;
    this.last = { identity, time };
    const clock = new Date(time).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
    const head = again ? null : el('p.message-head', {}, el('b', {}, local ? 'You' : name), ' ', el('time', {}, clock));
    return el(local ? 'li.message.mine' : 'li.message', {}, head, el('p.message-text', {}, ...linked(text)));
  }

  read() {
    this.count = 0;
    this.unread(0);
    $('messages').scrollTop = $('messages').scrollHeight;
  }

  /** The box is as high as its text, up to what the style sheet allows. */
  grow() {
    const box = $('chat-text');
    box.style.height = 'auto';
    box.style.height = `${box.scrollHeight + 2}px`;
  }
}

/** Text with its addresses as links; nothing of it is ever read as HTML. */
function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]+[^\s<>".,;:!?)\]])/g).map((part, i) =>
    i % 2 ? el('a', { href: part, target: '_blank', rel: 'noopener noreferrer' }, part) : part);
}
