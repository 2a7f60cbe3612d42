// A small graph of one number over the last minute, sharp on any pixel density.

const SAMPLES = 60;

/** One tile: its caption, its current value in words, and the line. */
export class Graph {
  /** `format(value)` gives the words; `floor` is the least that the top of the graph may stand for. */
  constructor(tile, { format, floor, colour = '--water' }) {
    this.output = tile.querySelector('output');
    this.canvas = tile.querySelector('canvas');
    this.name = tile.querySelector('figcaption').textContent;
    Object.assign(this, { format, floor, colour });
    this.pointed = null;
    this.clear();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  clear() {
    this.values = [];
    this.draw();
  }

  push(value) {
    this.values.push(Number.isFinite(value) ? value : null);
    if (this.values.length > SAMPLES) this.values.shift();
    this.draw();
  }

  /** Shows the value `ago` samples back instead of the newest; null ends that. */
  point(ago) {
    this.pointed = ago;
    this.draw();
  }

  /** How many samples back the horizontal position `x` (0 to 1) is. */
  static agoAt(x) {
    return Math.round((1 - x) * (SAMPLES - 1));
  }

  draw() {
    const shown = this.values.at(-1 - (this.pointed ?? 0)) ?? null;
    this.output.textContent = shown === null ? '–' : this.format(shown);
    this.canvas.setAttribute('aria-label', `${this.name}, last minute; now ${this.output.textContent}`);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width === 0) return;
    const density = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(height * density);
    const context = this.canvas.getContext('2d');
    context.scale(density, density);
    this.paint(context, width, height);
  }

  paint(context, width, height) {
    const style = getComputedStyle(this.canvas);
    const [line, faint] = [style.getPropertyValue(this.colour), style.getPropertyValue('--line')];
    const top = Math.max(this.floor, ...this.values.map((value) => (value ?? 0) * 1.12));
    const inset = 4;
    const x = (i) => width - inset - ((this.values.length - 1 - i) * (width - 2 * inset)) / (SAMPLES - 1);
    const y = (value) => height - 1.5 - (value / top) * (height - inset - 1.5);
    context.strokeStyle = faint;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(0, height - 0.5);
    context.lineTo(width, height - 0.5);
    context.stroke();
    for (const run of this.runs())
      paintRun(
        context,
        run.map((i) => [x(i), y(this.values[i])]),
        line,
        height,
      );
    const marked = this.values.length - 1 - (this.pointed ?? 0);
    if (this.values[marked] === null || this.values[marked] === undefined) return;
    context.globalAlpha = 1;
    context.fillStyle = line;
    context.beginPath();
    context.arc(x(marked), y(this.values[marked]), 2.6, 0, 2 * Math.PI);
    context.fill();
  }

  /** The stretches without a gap. */
  runs() {
    const runs = [];
    this.values.forEach((value, i) => {
      if (value === null) return;
      if (i === 0 || this.values[i - 1] === null) runs.push([]);
      runs.at(-1).push(i);
    });
    return runs;
  }
}

function paintRun(context, points, colour, height) {
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.strokeStyle = colour;
  context.lineWidth = 1.6;
  context.lineJoin = 'round';
  context.globalAlpha = 1;
  context.stroke();
  context.lineTo(points.at(-1)[0], height);
  context.lineTo(points[0][0], height);
  context.fillStyle = colour;
  context.globalAlpha = 0.13;
  context.fill();
}
