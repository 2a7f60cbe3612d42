// What of each picture arrives: size, frame rate, bitrate, codec, loss, and which of the publisher's simulcast layers it is. Of one's own
// camera: which layers are being sent, as the server has those that nobody watches switched off.

const EVERY_MS = 2_000;
const NAMES = ['low', 'middle', 'high'];

export class Stats {
  constructor(stage) {
    this.stage = stage;
    this.before = new WeakMap();
  }

  start() {
    this.stop();
    this.timer = setInterval(() => this.look(), EVERY_MS);
  }

  stop() {
    clearInterval(this.timer);
  }

  async look() {
    for (const tile of this.stage.tiles.values()) {
      const { track, publication } = tile;
      if (!track || !publication || tile.element.hidden) continue;
      const report = await track.getRTCStatsReport().catch(() => undefined);
      if (!report || tile.track !== track) continue;
      tile.told(tile.local ? this.sent(track, report) : this.received(track, report, publication));
    }
  }

  received(track, report, publication) {
    const stream = find(report, 'inbound-rtp');
    if (!stream?.frameHeight) return null;
    const past = this.since(track, stream, ['bytesReceived', 'packetsLost', 'packetsReceived', 'framesDecoded']);
    const codec = codecOf(report, stream);
    const size = `${stream.frameWidth}×${stream.frameHeight}`;
    const layers = layersOf(publication);
    const layer = layers.length > 1 ? nearest(layers, stream) : -1;
    const rows = [['Picture', `${size}, ${Math.round(stream.framesPerSecond ?? 0)} fps`]];
    if (layer >= 0) rows.push(['Layer', `${layer + 1} of ${layers.length} (${named(layer, layers.length)})`]);
    rows.push(['Codec', codec]);
    if (past) rows.push(['Bitrate', bitrate(past.bytesReceived, past.ms)], ['Loss', loss(past)]);
    return { short: `${short(stream)}p`, layer: layer >= 0 ? `${layer + 1}/${layers.length}` : '', long: rows.map((row) => row.join(': ')).join(' · '), rows };
  }

  sent(track, report) {
    const streams = [...report.values()].filter((stat) => stat.type === 'outbound-rtp' && stat.kind === 'video');
    const flowing = streams.filter((stream) => stream.frameHeight && (this.since(stream.rid ? ridKey(track, stream.rid) : track, stream, ['bytesSent'])?.bytesSent ?? 0) > 0);
    if (!flowing.length) return { short: '', long: '', layer: '', rows: [['Sending', 'nothing: nobody watches']] };
    flowing.sort((a, b) => a.frameHeight - b.frameHeight);
    const top = flowing[flowing.length - 1];
    const rows = flowing.map((stream) => [`${short(stream)}p`, `${Math.round(stream.framesPerSecond ?? 0)} fps`]);
    rows.push(['Codec', codecOf(report, top) + (top.scalabilityMode ? ` ${top.scalabilityMode}` : '')]);
    if (top.qualityLimitationReason && top.qualityLimitationReason !== 'none') rows.push(['Limited by', top.qualityLimitationReason]);
    const sizes = flowing.map((stream) => `${short(stream)}p`).join(', ');
    return { short: `${short(top)}p`, layer: '', long: `Sending ${sizes}`, rows };
  }

  /** How much the counters grew since the last look. */
  since(key, stat, counters) {
    const before = this.before.get(key);
    this.before.set(key, stat);
    if (!before || before.id !== stat.id) return null;
    const grown = Object.fromEntries(counters.map((name) => [name, (stat[name] ?? 0) - (before[name] ?? 0)]));
    return { ...grown, ms: stat.timestamp - before.timestamp };
  }
}

/** One object for each layer of a track, to remember its counters by. */
const keys = new WeakMap();
function ridKey(track, rid) {
  const rids = keys.get(track) ?? {};
  keys.set(track, rids);
  return (rids[rid] ??= {});
}

const find = (report, type) => [...report.values()].find((stat) => stat.type === type && stat.kind === 'video');
const codecOf = (report, stream) => report.get(stream.codecId)?.mimeType?.replace('video/', '') ?? '–';
const short = (stream) => Math.min(stream.frameWidth, stream.frameHeight);
const named = (index, count) => (count === 3 ? NAMES[index] : count === 2 ? NAMES[index * 2] : String(index + 1));

const bitrate = (bytes, ms) => {
  const kilobits = (bytes * 8) / Math.max(ms, 1);
  return kilobits < 1000 ? `${Math.round(kilobits)} kb/s` : `${(kilobits / 1000).toFixed(1)} Mb/s`;
};

const loss = ({ packetsLost, packetsReceived }) => `${((100 * Math.max(packetsLost, 0)) / Math.max(packetsLost + packetsReceived, 1)).toFixed(1)} %`;

/** The publisher's layers, lowest first. */
function layersOf(publication) {
  const layers = (publication.trackInfo?.layers ?? []).filter((layer) => layer.height > 0);
  return layers.sort((a, b) => a.height - b.height);
}

function nearest(layers, stream) {
  const distance = (layer) => Math.abs(Math.min(layer.width, layer.height) - short(stream));
  return layers.reduce((best, layer, i) => (distance(layer) < distance(layers[best]) ? i : best), 0);
}
