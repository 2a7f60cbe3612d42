// The keyboard: one letter for each action, the space bar to speak while muted, Escape to close what is open, arrows in menus.

import { $ } from './dom.js';

export class Keys {
  constructor(meeting, controls) {
    this.meeting = meeting;
    this.controls = controls;
    this.letters = Object.fromEntries(Object.entries(controls.actions).map(([name, { key }]) => [key, name]));
    document.addEventListener('keydown', (event) => this.down(event));
    document.addEventListener('keyup', (event) => this.up(event));
    window.addEventListener('blur', () => this.letGo());
  }

  down(event) {
    if (!this.meeting.room || $('help').open) return;
    if (event.key === 'Escape') return void (this.controls.closeMenu() || this.meeting.panel(''));
    if (!$('menu').hidden && /^Arrow(Up|Down)$/.test(event.key)) return void this.move(event);
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || typing(event.target)) return;
    if (event.key === ' ') {
      if (event.target.closest('button, a, select')) return;
      event.preventDefault();
      if (!this.meeting.room.localParticipant.isMicrophoneEnabled) {
        this.speaking = true;
        this.controls.run('mic');
      }
      return;
    }
    const name = this.letters[event.key.toLowerCase()];
    if (!name) return;
    event.preventDefault();
    this.controls.run(name);
  }

  up(event) {
    if (event.key === ' ') this.letGo();
  }

  letGo() {
    if (!this.speaking) return;
    this.speaking = false;
    this.controls.toggle('microphone', () => this.meeting.room?.localParticipant.setMicrophoneEnabled(false)).finally(() => this.controls.draw());
  }

  move(event) {
    event.preventDefault();
    const lines = [...$('menu').querySelectorAll('button')];
    const next = lines.indexOf(document.activeElement) + (event.key === 'ArrowDown' ? 1 : -1);
    lines.at(next % lines.length)?.focus();
  }
}

const typing = (target) => /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable;
