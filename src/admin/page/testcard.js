// The test picture: moving dots on the delta, a clock to read the latency from, a frame counter to see a frame lost,
// colour bars. It draws on any 2D context, in a worker or on the page.

import { drawChannels, drawFlow, layOut } from './delta.js';

const BARS = ['#c0c0c0', '#c0c000', '#00c0c0', '#00c000', '#c000c0', '#c00000', '#0000c0'];
const FONT = '"DejaVu Sans Mono", Menlo, Consolas, monospace';

/** Returns `draw(frame, epochMs)` for one canvas. What never moves is drawn once and kept. */
export function testCard(context, { width, height, fps, room }) {
  const geometry = layOut(width, height * 0.86);
  const still = new OffscreenCanvas(width, height);
  drawStill(still.getContext('2d'), geometry, { width, height, fps, room });
  const unit = height / 360;
  return (frame, epochMs) => {
    context.drawImage(still, 0, 0);
    drawFlow(context, geometry, '#ff86bb', 4.2 * unit, epochMs / 1000, 4);
    drawSweep(context, width, unit, epochMs);
    drawClock(context, width, height, unit, frame, epochMs);
  };
}

function drawStill(context, geometry, { width, height, fps, room }) {
  const unit = height / 360;
  const water = context.createLinearGradient(0, 0, width, height);
  water.addColorStop(0, '#08202a');
  water.addColorStop(1, '#0f4455');
  context.fillStyle = water;
  context.fillRect(0, 0, width, height);
  drawChannels(context, geometry, '#1d6b82', 1.6 * unit);
  const bar = width / BARS.length;
  BARS.forEach((colour, i) => {
    context.fillStyle = colour;
    context.fillRect(Math.floor(i * bar), height * 0.92, Math.ceil(bar), height * 0.08);
  });
  context.fillStyle = '#d9eef4';
  context.font = `600 ${15 * unit}px ${FONT}`;
  context.textBaseline = 'top';
  context.fillText(room.slice(0, 28), 18 * unit, 16 * unit);
  context.fillStyle = '#8fbccb';
  context.font = `${12 * unit}px ${FONT}`;
  context.fillText(`${width}×${height} · ${fps} fps`, 18 * unit, 38 * unit);
}

/** A hand that turns once a second: uneven motion shows at once. The disc lights up with each beep. */
function drawSweep(context, width, unit, epochMs) {
  const [x, y, radius] = [width - 46 * unit, 46 * unit, 28 * unit];
  const turn = ((epochMs % 1000) / 1000) * 2 * Math.PI - Math.PI / 2;
  context.fillStyle = epochMs % 1000 < 100 ? '#ffffff' : '#06171e';
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = '#ff86bb';
  context.beginPath();
  context.moveTo(x, y);
  context.arc(x, y, radius, turn - 0.7, turn);
  context.fill();
}

function drawClock(context, width, height, unit, frame, epochMs) {
  const [boxWidth, boxHeight] = [286 * unit, 92 * unit];
  const [left, top] = [(width - boxWidth) / 2, (height * 0.92 - boxHeight) / 2];
  context.fillStyle = 'rgba(4, 16, 21, 0.86)';
  context.fillRect(left, top, boxWidth, boxHeight);
  const now = new Date(epochMs);
  const two = (value) => String(value).padStart(2, '0');
  const clock = `${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`;
  const fraction = `.${String(now.getMilliseconds()).padStart(3, '0')}`;
  context.textBaseline = 'alphabetic';
  context.fillStyle = '#ffffff';
  context.font = `700 ${36 * unit}px ${FONT}`;
  context.fillText(clock, left + 15 * unit, top + 48 * unit);
  context.fillStyle = '#ffb3d4';
  context.fillText(fraction, left + 15 * unit + context.measureText(clock).width, top + 48 * unit);
  context.fillStyle = '#9fd0df';
  context.font = `${17 * unit}px ${FONT}`;
  context.fillText(`frame ${String(frame).padStart(6, '0')}`, left + 16 * unit, top + 76 * unit);
}

/** The tone at a moment of time: a quiet steady note, and a beep as each second begins. */
export function toneAt(seconds) {
  const beep = seconds % 1 < 0.1 ? 0.25 * Math.sin(2 * Math.PI * 880 * seconds) : 0;
  return 0.1 * Math.sin(2 * Math.PI * 330 * seconds) + beep;
}
