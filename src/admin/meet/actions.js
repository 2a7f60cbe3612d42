// Everything that can be done in a meeting, once: the buttons, the menu, the keyboard and its help are made of this list, so that they
// cannot differ.
//
// `key`: on the keyboard. `does`: for the help. `icon`, `words`: as they are now. `on`: whether a button is to look pressed.

import { $, copy } from './dom.js';
import { handOf } from './people.js';

export function actionsOf(meeting, controls) {
  const me = () => meeting.room.localParticipant;
  const grid = () => meeting.stage.layout === 'grid';
  const actions = {
    mic: {
      key: 'm', does: 'Mute and unmute', on: () => me().isMicrophoneEnabled,
      icon: () => (me().isMicrophoneEnabled ? 'mic' : 'micOff'),
      words: () => (me().isMicrophoneEnabled ? 'Mute' : 'Unmute'),
      run: () => controls.toggle('microphone', () => me().setMicrophoneEnabled(!me().isMicrophoneEnabled)),
    },
    camera: {
      key: 'v', does: 'Camera on and off', on: () => me().isCameraEnabled,
      icon: () => (me().isCameraEnabled ? 'camera' : 'cameraOff'),
      words: () => (me().isCameraEnabled ? 'Turn the camera off' : 'Turn the camera on'),
      run: () => controls.toggle('camera', () => me().setCameraEnabled(!me().isCameraEnabled)),
    },
    share: {
      key: 's', does: 'Share the screen, or stop', on: () => me().isScreenShareEnabled,
      icon: () => (me().isScreenShareEnabled ? 'screenStop' : 'screen'),
      words: () => (me().isScreenShareEnabled ? 'Stop sharing the screen' : 'Share the screen'),
      run: () => controls.share(),
    },
    hand: {
      key: 'h', does: 'Raise or lower the hand', on: () => handOf(me()) > 0,
      icon: () => 'hand',
      words: () => (handOf(me()) ? 'Lower the hand' : 'Raise the hand'),
      run: () => controls.hand(),
    },
    chat: { key: 'c', does: 'Chat', on: () => meeting.panelOpen === 'chat', icon: () => 'chat', words: () => 'Chat', run: () => meeting.panel('chat') },
    people: {
      key: 'p', does: 'People', on: () => meeting.panelOpen === 'people',
      icon: () => 'people', words: () => 'People', run: () => meeting.panel('people'),
    },
    layout: {
      key: 'g', does: 'Grid or speaker',
      icon: () => (grid() ? 'speaker' : 'grid'),
      words: () => (grid() ? 'Show the speaker large' : 'Show all in a grid'),
      run: () => meeting.stage.setLayout(grid() ? 'speaker' : 'grid'),
    },
    details: {
      key: 'i', does: 'Details of each picture',
      icon: () => 'details',
      words: () => (document.body.dataset.details === 'on' ? 'Hide the details' : 'Details of each picture'),
      run: () => controls.details(),
    },
    devices: { key: 'd', does: 'Choose devices', icon: () => 'devices', words: () => 'Choose devices', run: () => controls.deviceMenu() },
    full: {
      key: 'f', does: 'Full screen',
      icon: () => 'full',
      words: () => (document.fullscreenElement ? 'Leave full screen' : 'Full screen'),
      run: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()).catch(() => {}),
    },
    copy: { key: 'l', does: 'Copy the link', icon: () => 'link', words: () => 'Copy the link', run: () => copy(meeting.link(), 'The link is copied.') },
    help: { key: '?', does: 'This list', icon: () => 'keyboard', words: () => 'Keyboard', run: () => $('help').showModal() },
    leave: { key: 'q', does: 'Leave', icon: () => 'leave', words: () => 'Leave', run: () => meeting.leave() },
  };
  // Phones share no screen and some have no full screen.
  if (!navigator.mediaDevices?.getDisplayMedia) delete actions.share;
  if (!document.documentElement.requestFullscreen) delete actions.full;
  return actions;
}
