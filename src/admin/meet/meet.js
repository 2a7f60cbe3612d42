// The meeting page: a screen before the meeting, the meeting, and a screen after it. Built by ./build into dist, which the server embeds.

import { LogLevel, setLogLevel } from 'livekit-client';
import { $ } from './dom.js';
import { JoinScreen } from './join.js';
import { Meeting } from './meeting.js';
import { leftWords } from './words.js';

setLogLevel(new URLSearchParams(location.search).has('debug') ? LogLevel.debug : LogLevel.warn);

const meeting = new Meeting((reason) => {
  const words = leftWords(reason);
  $('left-title').textContent = words ? 'The meeting is over for you' : 'You have left the meeting';
  $('left-words').textContent = words;
  document.body.dataset.view = 'left';
  $('rejoin').focus();
});
const joining = new JoinScreen((wish) => meeting.join(wish));

$('rejoin').addEventListener('click', () => {
  document.body.dataset.view = 'join';
  joining.show();
});

// For the console, and for tests.
window.meeting = meeting;
joining.show();
