// Graphs of the last two minutes, from the text of /metrics: counters as rates, gauges as they are.

import { Graph } from '/graph.js';

const TOTALS = {
  sessions: { names: ['distributary_sessions'], format: (value) => String(value), floor: 4, gauge: true },
  in: { names: ['distributary_received_bytes_total'], format: (bytes) => bits(bytes * 8), floor: 12_500 },
  out: { names: ['distributary_sent_bytes_total'], format: (bytes) => bits(bytes * 8), floor: 12_500, colour: '--mark' },
  packets: { names: ['distributary_forwarded_media_packets_total'], format: (rate) => `${short(rate)}/s`, floor: 20, colour: '--mark' },
  drops: { names: ['distributary_dropped_packets_total'], format: (rate) => `${short(rate)}/s`, floor: 5, colour: '--warn' },
  memory: { names: ['process_resident_memory_bytes'], format: (bytes) => `${Math.round(bytes / 2 ** 20)} MiB`, floor: 2 ** 26, gauge: true },
};

export class Load {
  constructor({ graphs, workers, about }) {
    this.workers = workers;
    this.about = about;
    this.perWorker = new Map();
    this.before = null;
    this.graphs = Object.fromEntries(Object.entries(TOTALS).map(([name, total]) => [name, new Graph(graphs.querySelector(`[data-graph="${name}"]`), total)]));
  }

  show(text) {
    const samples = read(text);
    const at = performance.now();
    const sum = (name) => samples.filter((sample) => sample.name === name).reduce((total, { value }) => total + value, 0);
    const now = Object.fromEntries(Object.entries(TOTALS).map(([name, { names }]) => [name, names.reduce((total, each) => total + sum(each), 0)]));
    for (const [name, graph] of Object.entries(this.graphs)) {
      if (TOTALS[name].gauge) graph.push(now[name]);
      else if (this.before) graph.push(Math.max(0, (now[name] - this.before[name]) / ((at - this.before.at) / 1000)));
    }
    this.before = { ...now, at };
    for (const { name, labels, value } of samples) {
      if (name === 'distributary_worker_busy_ratio') this.worker(labels.worker).push(value * 100);
    }
    const build = samples.find(({ name }) => name === 'distributary_build_info')?.labels;
    const started = sum('process_start_time_seconds');
    this.about.textContent = `${build?.version ?? ''} · up ${since(Date.now() / 1000 - started)} · ${sum('distributary_ready') ? 'ready' : 'not ready'}`;
  }

  worker(label) {
    if (this.perWorker.has(label)) return this.perWorker.get(label);
    const tile = document.createElement('figure');
    const [caption, output, canvas] = ['figcaption', 'output', 'canvas'].map((tag) => document.createElement(tag));
    caption.textContent = /^\d+$/.test(label) ? `Worker ${label}` : label;
    canvas.setAttribute('role', 'img');
    tile.append(caption, output, canvas);
    this.workers.append(tile);
    const graph = new Graph(tile, { format: (value) => `${value.toFixed(value < 10 ? 1 : 0)} %`, floor: 100 });
    this.perWorker.set(label, graph);
    return graph;
  }
}

/** The samples of Prometheus' text format. */
function read(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const [, name, labels = '', value] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name) continue;
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text]);
    samples.push({ name, labels: Object.fromEntries(pairs), value: Number(value) });
  }
  return samples;
}

export const short = (value) => (value < 1_000 ? String(Math.round(value)) : value < 1e6 ? `${(value / 1e3).toFixed(1)} k` : `${(value / 1e6).toFixed(1)} M`);

export const bits = (rate) => (rate < 1e6 ? `${Math.round(rate / 1e3)} kb/s` : rate < 1e9 ? `${(rate / 1e6).toFixed(1)} Mb/s` : `${(rate / 1e9).toFixed(2)} Gb/s`);

export function since(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}
