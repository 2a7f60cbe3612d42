// The bar at the bottom and its menus: the buttons of what can be done (actions.js), and how the devices among it are switched.

import { Room } from 'livekit-client';
import { actionsOf } from './actions.js';
import { $, el, icon, label, remember, toast } from './dom.js';
import { deviceWords } from './words.js';
import { handOf, raiseHand } from './people.js';

const KINDS = { audioinput: 'Microphone', videoinput: 'Camera', audiooutput: 'Speaker' };

export class Controls {
  /** `meeting` has what the actions act upon: room, stage, panel(name), leave(), link(). */
  constructor(meeting) {
    this.meeting = meeting;
    this.actions = actionsOf(meeting, this);
    this.buttons();
    this.helpKeys();
    document.addEventListener('click', (event) => {
      if (!event.target.closest('#menu, [data-menu]')) this.closeMenu();
    });
  }

  buttons() {
    const button = (name, classes = '') => {
      if (!this.actions[name]) return null;
      const made = el(`button.round${classes}`, { type: 'button', 'data-action': name });
      made.addEventListener('click', () => this.run(name));
      return made;
    };
    const caret = (kinds, words) => {
      const made = el('button.caret', { type: 'button', 'data-menu': kinds[0], 'aria-haspopup': 'menu' });
      label(made, 'up', words);
      made.addEventListener('click', () => this.deviceMenu(kinds, made));
      return made;
    };
    const pair = (...parts) => el('div.pair', {}, ...parts);
    $('bar-main').append(
      pair(button('mic'), caret(['audioinput', 'audiooutput'], 'Choose microphone and speaker')),
      pair(button('camera'), caret(['videoinput'], 'Choose the camera')),
      ...[button('share', '.roomy'), button('hand'), button('chat', '.phone'), this.moreButton('.phone'), button('leave', '.leave')].filter(Boolean));
    $('bar-more').append(button('layout'), button('people'), button('chat'), this.moreButton(''));
    for (const chat of document.querySelectorAll('[data-action="chat"]')) chat.append(el('span.badge', { hidden: true }));
  }

  moreButton(classes) {
    const made = el(`button.round${classes}`, { type: 'button', 'data-menu': 'more', 'aria-haspopup': 'menu' });
    label(made, 'more', 'More');
    made.addEventListener('click', () => this.moreMenu(made));
    return made;
  }

  helpKeys() {
    const lines = Object.values(this.actions).map(({ key, does }) => [key.toUpperCase(), does]);
    lines.push(['Space', 'Hold to speak while muted'], ['Esc', 'Close what is open']);
    $('help-keys').replaceChildren(...lines.flatMap(([key, does]) => [el('dt', {}, el('kbd', {}, key)), el('dd', {}, does)]));
  }

  run(name) {
    this.closeMenu();
    if (!this.actions[name] || !this.meeting.room) return undefined;
    return Promise.resolve(this.actions[name].run()).finally(() => this.draw());
  }

  draw() {
    if (!this.meeting.room) return;
    for (const button of document.querySelectorAll('[data-action]')) {
      const action = this.actions[button.dataset.action];
      label(button, action.icon(), action.words(), action.key);
      if (action.on) button.setAttribute('aria-pressed', String(Boolean(action.on())));
    }
  }

  unread(count) {
    for (const badge of document.querySelectorAll('.badge')) {
      badge.hidden = count === 0;
      badge.textContent = count > 99 ? '99+' : String(count);
    }
  }

  // ---- what they do ----

  /** Switches a device. Several wishes one after the other are carried out one after the other. */
  async toggle(what, change) {
    this.busy = (this.busy ?? Promise.resolve()).then(change).catch((error) => toast(refused(error, what), 'error'));
    await this.busy;
  }

  async share() {
    const { localParticipant } = this.meeting.room;
    try {
      await localParticipant.setScreenShareEnabled(!localParticipant.isScreenShareEnabled, {
        audio: true, selfBrowserSurface: 'include', surfaceSwitching: 'include', systemAudio: 'include', contentHint: 'detail',
      });
    } catch (error) {
      // Whoever closes the browser's dialog knows that nothing is shared.
      if (error.name !== 'NotAllowedError') toast(refused(error, 'screen'), 'error');
    }
  }

  async hand() {
    const { localParticipant } = this.meeting.room;
    if (localParticipant.permissions?.canUpdateMetadata === false) {
      return toast('Your access token does not allow raising a hand: it is without canUpdateOwnMetadata.', 'error');
    }
    try {
      await raiseHand(localParticipant, !handOf(localParticipant));
    } catch (error) {
      toast(`The hand could not be raised: ${error.message}`, 'error');
    }
    return undefined;
  }

  details() {
    document.body.dataset.details = document.body.dataset.details === 'on' ? '' : 'on';
  }

  // ---- menus ----

  moreMenu(anchor) {
    const lines = ['share', 'people', 'layout', 'details', 'devices', 'full', 'copy', 'help'].filter((name) => this.actions[name]).map((name) => {
      const action = this.actions[name];
      const parts = [icon(action.icon()), el('span', {}, action.words()), el('kbd', {}, action.key.toUpperCase())];
      const line = el('button.menu-line', { type: 'button', role: 'menuitem' }, ...parts);
      line.addEventListener('click', (event) => {
        event.stopPropagation();
        this.run(name);
      });
      return line;
    });
    this.openMenu(anchor, lines);
  }

  async deviceMenu(kinds = Object.keys(KINDS), anchor = $('bar-main')) {
    const { room } = this.meeting;
    const lines = [];
    for (const kind of kinds) {
      const devices = (await Room.getLocalDevices(kind, false).catch(() => [])).filter((device) => device.deviceId);
      if (!devices.length && kind === 'audiooutput') continue;
      lines.push(el('p.menu-head', {}, KINDS[kind]));
      if (!devices.length) lines.push(el('p.menu-none', {}, 'None was found.'));
      for (const device of devices) {
        const active = room.getActiveDevice(kind) === device.deviceId;
        const mark = active ? icon('check') : el('i.no-icon');
        const properties = { type: 'button', role: 'menuitemradio', 'aria-checked': String(active) };
        const line = el('button.menu-line', properties, mark, el('span', {}, device.label || KINDS[kind]));
        line.addEventListener('click', () => this.pick(kind, device.deviceId));
        lines.push(line);
      }
    }
    this.openMenu(anchor, lines);
  }

  async pick(kind, deviceId) {
    this.closeMenu();
    try {
      await this.meeting.room.switchActiveDevice(kind, deviceId);
      remember(localStorage, kind, deviceId);
    } catch (error) {
      toast(deviceWords(error, KINDS[kind].toLowerCase()), 'error');
    }
  }

  openMenu(anchor, lines) {
    const menu = $('menu');
    if (!menu.hidden && this.anchor === anchor) return this.closeMenu();
    this.anchor = anchor;
    menu.replaceChildren(...lines);
    menu.hidden = false;
    const { left, width } = anchor.getBoundingClientRect();
    const at = Math.max(8, Math.min(left + width / 2 - menu.offsetWidth / 2, window.innerWidth - menu.offsetWidth - 8));
    menu.style.left = `${at}px`;
    menu.querySelector('button')?.focus();
    return undefined;
  }

  closeMenu() {
    if ($('menu').hidden) return false;
    const inside = $('menu').contains(document.activeElement);
    $('menu').hidden = true;
    if (inside) this.anchor?.focus?.();
    return true;
  }
}

/** Of a device that the browser keeps back, or of a server that does not let publish. */
function refused(error, what) {
  if (/permission|not allowed to publish|insufficient/i.test(error.message) && error.name !== 'NotAllowedError') {
    return `Your access token does not allow sharing your ${what}.`;
  }
  return deviceWords(error, what);
}
