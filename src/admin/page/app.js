// The page: reads the form and the address, runs one Activity at a time, and shows what it reports.
//
//   /?room=x                                   choose what to do in room x
//   /?room=x&do=watch[&muted=1]                watch at once
//   /?room=x&do=publish&source=test|camera|screen[&codec=VP8|H264|VP9|AV1][&simulcast=1][&size=640x360][&fps=20]
//   #token=…                                   an access token; a fragment never reaches a server or its log
//
// `window.distributary` = { pc, state, stats } is there for tests and for curious people in the console.

import { Activity } from './activity.js';
import { drawChannels, drawFlow, layOut } from './delta.js';
import { explain } from './explain.js';
import { Graph } from './graph.js';
import { showRooms } from './rooms.js';
import { bitrateWords, emptySample } from './stats.js';

const $ = (id) => document.getElementById(id);
const TOKEN_KEY = 'distributary.token';
const CALM = matchMedia('(prefers-reduced-motion: reduce)');

const address = new URLSearchParams(location.search);
let activity = null;
let lastPlan = null;
window.distributary = { pc: null, state: 'idle', stats: emptySample('idle') };

const graphs = {
  bitrate: graph('bitrate', { format: bitrateWords, floor: 100_000 }),
  rtt: graph('rtt', { format: (ms) => (ms < 1 ? '< 1 ms' : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`), floor: 5 }),
  loss: graph('loss', {
    format: (percent) => `${percent.toFixed(percent > 0 && percent < 10 ? 1 : 0)} %`,
    floor: 2,
    colour: '--mark',
  }),
  resent: graph('resent', { format: (rate) => `${Math.round(rate)} /s`, floor: 4, colour: '--mark' }),
  size: graph('size', { format: () => sizeWords(window.distributary.stats) || '–', floor: 180 }),
  fps: graph('fps', { format: (fps) => `${Math.round(fps)} fps`, floor: 10 }),
};

function graph(name, options) {
  return new Graph(document.querySelector(`[data-graph="${name}"]`), options);
}

// ---- what to do -------------------------------------------------------------------------------------------------

function planFromForm(mode, source) {
  const [width, height] = (/^(\d{2,4})x(\d{2,4})$/.exec(address.get('size') ?? '') ?? [0, 1280, 720]).slice(1).map(Number);
  return {
    mode,
    source,
    room: $('room').value.trim() || 'lobby',
    token: $('token').value.trim(),
    codec: $('codec').value,
    simulcast: $('simulcast').checked,
    width,
    height,
    fps: Math.min(60, Math.max(1, Number(address.get('fps')) || 30)),
  };
}

function start(plan) {
  stop();
  lastPlan = plan;
  if (plan.token) sessionStorage.setItem(TOKEN_KEY, plan.token);
  else sessionStorage.removeItem(TOKEN_KEY);
  rememberInAddress(plan);
  for (const one of Object.values(graphs)) one.clear();
  $('rows').replaceChildren();
  $('video').muted = plan.mode === 'publish' || address.get('muted') === '1';
  const mine = new Activity(plan, {
    onState: (state, extra) => mine === activity && showState(state, extra),
    onStream: (stream) => mine === activity && showStream(stream, plan),
    onSample: (sample) => mine === activity && showSample(sample),
    place: () => [$('video').clientWidth, $('video').clientHeight].map((side) => Math.min(Math.round(side * devicePixelRatio), 16_384)),
  });
  activity = mine;
  mine.run();
}

function stop(options) {
  activity?.stop(options);
  activity = null;
  const video = $('video');
  video.srcObject = null;
  video.load();
  if (document.fullscreenElement) document.exitFullscreen();
  showState('idle');
}

function userStops() {
  stop();
  const query = new URLSearchParams({ room: $('room').value });
  history.replaceState(null, '', `/?${query}`);
  $('watch').focus();
}

/** A reload, or a copied address, comes back to the same room; only watching starts again by itself. */
function rememberInAddress({ mode, room }) {
  const query = new URLSearchParams(location.search);
  query.set('room', room);
  if (mode === 'watch') query.set('do', 'watch');
  else if (query.get('do') === 'watch') query.delete('do');
  history.replaceState(null, '', `/?${query}`);
}

// ---- what to show -----------------------------------------------------------------------------------------------

function showState(state, extra = {}) {
  const running = !['idle', 'error', 'ended'].includes(state);
  document.body.dataset.phase = running ? 'active' : 'idle';
  document.body.dataset.state = state;
  const stats = { ...(state === 'live' || state === 'waiting' ? window.distributary.stats : emptySample(state)), state };
  window.distributary = { pc: activity?.pc ?? null, state, stats };
  const plan = lastPlan;
  const publishes = plan?.mode === 'publish';
  $('role').textContent = running ? `${publishes ? 'Publishing to' : 'Watching'} room ${plan.room}` : '';
  showWords(state, extra);
  showNotice(state, extra);
  showSound();
  document.title = running ? `${plan.room} · ${$('words').textContent.split(' · ')[0]} – Distributary` : 'Distributary';
  if (state === 'error' || state === 'ended') $('video').srcObject = null;
  animateDelta();
}

function showWords(state, { inSeconds } = {}) {
  const { stats } = window.distributary;
  const live = () =>
    ['Live', sizeWords(stats) || (stats.audioPackets > 0 ? 'sound only' : ''), stats.codec].filter(Boolean).join(' · ');
  const words = {
    opening: lastPlan?.source === 'test' ? 'Making the test picture…' : `Asking for the ${lastPlan?.source}…`,
    connecting: 'Connecting…',
    waiting: `Waiting for a publisher in room ${lastPlan?.room}`,
    reconnecting: `Reconnecting in ${inSeconds} s`,
  }[state];
  const next = state === 'live' ? live() : (words ?? '');
  if ($('words').textContent !== next) $('words').textContent = next;
}

/** The card over the picture: nothing while it is live, else what is going on and what can be done. */
function showNotice(state, { cause, inSeconds } = {}) {
  const plan = lastPlan ?? {};
  let notice = null;
  if (state === 'connecting' && (cause || plan.mode === 'watch')) {
    const before = cause && explain(cause, plan); // the last attempt's advice stays while the next one tries
    notice = { title: 'Connecting…', text: before ? `${before.title}. ${before.text}` : '', reason: before?.reason };
  }
  if (state === 'opening' && plan.source !== 'test') {
    notice = { title: `Asking for the ${plan.source}…`, text: 'Allow it in the question that the browser shows.' };
  }
  if (state === 'waiting') {
    notice = {
      title: `Waiting for a publisher in room ${plan.room}`,
      text: 'The picture comes by itself as soon as somebody publishes.',
    };
  }
  if (state === 'reconnecting') {
    const { title, text, reason } = explain(cause, plan);
    notice = { title: `Reconnecting in ${inSeconds} s`, text: `${title}. ${text}`, reason, actions: ['now'] };
  }
  if (state === 'error') notice = { ...explain(cause, plan), error: true };
  if (state === 'ended') notice = { title: 'The capture ended', text: 'Nothing is published any more.', actions: ['retry'] };
  renderNotice(notice);
  if (notice?.focus) focusField(notice.focus);
}

function renderNotice(notice) {
  $('notice').hidden = !notice;
  if (!notice) return;
  $('notice').dataset.kind = notice.error ? 'error' : 'news';
  setText('notice-title', notice.title);
  setText('notice-text', notice.text ?? '');
  setText('notice-reason', notice.reason ? `“${notice.reason}”` : '');
  const wanted = (notice.actions ?? []).filter((name) => name !== 'test' || lastPlan?.source !== 'test');
  const key = wanted.join();
  if ($('notice-actions').dataset.key === key) return; // keep the focus on a button while a countdown runs
  $('notice-actions').dataset.key = key;
  $('notice-actions').replaceChildren(...wanted.map(noticeButton));
}

function noticeButton(name) {
  const [label, act] = {
    retry: [
      'Try again',
      () =>
        start({
          ...lastPlan,
          codec: $('codec').value,
          simulcast: $('simulcast').checked,
          token: $('token').value.trim(),
          room: $('room').value.trim() || lastPlan.room,
        }),
    ],
    now: ['Reconnect now', () => activity?.retryNow()],
    watch: ['Watch instead', () => start(planFromForm('watch'))],
    test: ['Publish the test picture', () => start({ ...lastPlan, source: 'test' })],
  }[name];
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: label });
  button.addEventListener('click', act);
  return button;
}

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
  $(id).hidden = text === '';
}

function focusField(id) {
  $(id).focus({ preventScroll: true });
  if (id !== 'token') $(id).select();
}

async function showStream(stream, { mode }) {
  const video = $('video');
  if (video.srcObject !== stream) video.srcObject = stream;
  try {
    await video.play();
  } catch (error) {
    if (error.name !== 'NotAllowedError' || mode === 'publish' || video.muted) return;
    video.muted = true; // a browser plays without sound what nobody has clicked for
    await video.play().catch(() => {});
  }
  showSound();
}

function showSound() {
  const { muted } = $('video');
  const watches = lastPlan?.mode === 'watch' && activity !== null;
  $('mute').hidden = !watches;
  $('mute').textContent = muted ? 'Sound on' : 'Mute';
  $('mute').setAttribute('aria-pressed', String(muted));
  $('unmute').hidden = !(watches && muted && document.body.dataset.state === 'live');
}

function showSample(sample) {
  window.distributary = { pc: activity.pc, state: activity.state, stats: sample };
  graphs.bitrate.push(sample.bitrate);
  graphs.rtt.push(sample.rttMs);
  graphs.loss.push(sample.lossPercent);
  graphs.resent.push(sample.retransmittedPerSecond);
  graphs.size.push(sample.height || null);
  graphs.fps.push(sample.width ? sample.framesPerSecond : null);
  if (activity.state === 'live') showWords('live');
  if ($('details').open) showDetails();
}

function showDetails() {
  $('rows').replaceChildren(
    ...window.distributary.stats.details.flatMap(([name, value]) => [
      Object.assign(document.createElement('dt'), { textContent: name }),
      Object.assign(document.createElement('dd'), { textContent: value }),
    ]),
  );
}

function sizeWords({ width, height }) {
  return width && height ? `${width}×${height}` : '';
}

// ---- the delta on the empty stage ---------------------------------------------------------------------------------

let deltaFrame = 0;

/** Draws the delta while no picture covers it; it stands still for people who want no motion. */
function animateDelta() {
  cancelAnimationFrame(deltaFrame);
  const canvas = $('delta');
  const geometry = sizeDelta(canvas);
  let painted = -Infinity;
  const draw = (now) => {
    if (document.body.dataset.state === 'live' || !geometry) return;
    if (now - painted > 30) {
      paintDelta(canvas, geometry, CALM.matches ? 2.2 : now / 1000);
      painted = now;
    }
    if (!CALM.matches) deltaFrame = requestAnimationFrame(draw);
  };
  draw(performance.now());
}

function sizeDelta(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (width === 0) return null;
  const density = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  return layOut(across, down);
}

function paintDelta(canvas, geometry, seconds) {
  const style = getComputedStyle(canvas);
  const context = canvas.getContext('2d');
  const unit = Math.max(canvas.height / 360, 1);
  context.clearRect(0, 0, canvas.width, canvas.height);
  drawChannels(context, geometry, style.getPropertyValue('--channel'), 1.7 * unit);
  drawFlow(context, geometry, style.getPropertyValue('--flow'), 3.6 * unit, seconds);
}

// ---- wiring -------------------------------------------------------------------------------------------------------

async function copyWatchLink() {
  const link = `${location.origin}/?${new URLSearchParams({ room: lastPlan.room, do: 'watch' })}`;
  try {
    await navigator.clipboard.writeText(link);
    $('copy').textContent = 'Copied';
    setTimeout(() => ($('copy').textContent = 'Copy link'), 2000);
  } catch {
    prompt('The link to watch this room:', link); // no clipboard on an insecure page
  }
}

function chooseRoom(name, event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  const publishing = activity && lastPlan.mode === 'publish' && document.body.dataset.phase === 'active';
  if (publishing) return void window.open(event.currentTarget.href, '_blank', 'noopener');
  $('room').value = name;
  start(planFromForm('watch'));
}

function toggleSound() {
  $('video').muted = !$('video').muted;
  $('video')
    .play()
    .catch(() => {});
  showSound();
}

function toggleFullscreen() {
  if (document.fullscreenElement) return document.exitFullscreen();
  const { stage, video } = { stage: $('stage'), video: $('video') };
  if (stage.requestFullscreen) return stage.requestFullscreen();
  return video.webkitEnterFullscreen?.(); // iPhones have it for video elements only
}

/** One crosshair over all graphs: what was everything like when that happened? */
function pointAtGraphs(event) {
  const canvas = event.target.closest?.('figure')?.querySelector('canvas');
  const box = canvas?.getBoundingClientRect();
  const ago =
    box && event.type !== 'pointerleave' ? Graph.agoAt(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width))) : null;
  for (const one of Object.values(graphs)) one.point(ago);
}

function wire() {
  $('join').addEventListener('submit', (event) => {
    event.preventDefault();
    start(planFromForm('watch'));
  });
  for (const button of document.querySelectorAll('[data-source]')) {
    button.addEventListener('click', () => $('join').reportValidity() && start(planFromForm('publish', button.dataset.source)));
  }
  $('stop').addEventListener('click', userStops);
  $('copy').addEventListener('click', copyWatchLink);
  $('mute').addEventListener('click', toggleSound);
  $('unmute').addEventListener('click', toggleSound);
  $('fullscreen').addEventListener('click', toggleFullscreen);
  $('details').addEventListener('toggle', showDetails);
  $('tiles').addEventListener('pointermove', pointAtGraphs);
  $('tiles').addEventListener('pointerleave', pointAtGraphs);
  $('video').addEventListener('loadeddata', () => activity?.sampleNow?.());
  new ResizeObserver(animateDelta).observe($('stage'));
  CALM.addEventListener('change', animateDelta);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', animateDelta);
  addEventListener('pagehide', () => activity?.stop({ keepalive: true }));
  addEventListener('pageshow', ({ persisted }) => persisted && stop());
  addEventListener('online', () => activity?.retryNow());
  showRooms({
    section: document.querySelector('.rooms'),
    list: $('rooms'),
    token: () => $('token').value.trim(),
    choose: chooseRoom,
  });
}

function readAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  $('token').value = fragment.get('token') ?? sessionStorage.getItem(TOKEN_KEY) ?? '';
  if (fragment.has('token')) history.replaceState(null, '', location.pathname + location.search);
  $('room').value = address.get('room')?.trim() || 'lobby';
  const codec = (address.get('codec') ?? '').toUpperCase();
  if ([...$('codec').options].some(({ value }) => value === codec)) $('codec').value = codec;
  $('simulcast').checked = address.get('simulcast') === '1';
  const source = address.get('source') ?? 'test';
  if (address.get('do') === 'watch') start(planFromForm('watch'));
  if (address.get('do') === 'publish' && ['test', 'camera', 'screen'].includes(source)) start(planFromForm('publish', source));
}

showState('idle');
wire();
readAddress();
