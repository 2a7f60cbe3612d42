// From RTCPeerConnection.getStats() to the few numbers that the page shows and tests read.
//
// Rates are over the time since the sample before. Loss is what the far side lost: for a viewer the gaps it saw in a
// second, for a publisher the `fractionLost` of the server's receiver reports (RFC 3550 section 6.4.1).

/** An empty sample: every field that a reader may rely on, so that none is ever undefined. */
export function emptySample(state) {
  return {
    state,
    framesDecoded: 0,
    framesEncoded: 0,
    framesPerSecond: 0,
    width: 0,
    height: 0,
    bitrate: 0,
    audioLevel: 0,
    packets: 0,
    videoPackets: 0,
    audioPackets: 0,
    packetsLost: 0,
    freezes: null,
    frozenSeconds: 0,
    lossPercent: null,
    retransmitted: 0,
    retransmittedPerSecond: null,
    rttMs: null,
    codec: '',
    audioCodec: '',
    iceState: 'new',
    details: [],
  };
}

/** Reads one connection again and again; `read()` gives a sample. */
export class StatsReader {
  constructor(pc) {
    this.pc = pc;
    this.before = null;
    this.rates = { bitrate: 0, lossPercent: null, retransmittedPerSecond: null };
  }

  async read(state) {
    const report = await this.pc.getStats();
    const all = [...report.values()];
    const of = (type, kind) => all.filter((entry) => entry.type === type && (!kind || entry.kind === kind));
    const receiving = of('inbound-rtp').length > 0;
    const rtp = of(receiving ? 'inbound-rtp' : 'outbound-rtp');
    const sample = { ...emptySample(state), iceState: this.pc.iceConnectionState };
    const video = rtp.filter((entry) => entry.kind === 'video');
    const audio = rtp.filter((entry) => entry.kind === 'audio');
    describePicture(sample, video, report);
    sample.audioCodec = codecName(report, audio[0]);
    sample.audioLevel = receiving ? heard(this.pc, audio[0]) : (of('media-source', 'audio')[0]?.audioLevel ?? 0);
    const transport = of('transport')[0];
    const pair = report.get(transport?.selectedCandidatePairId) ?? of('candidate-pair').find((entry) => entry.nominated);
    const remote = of('remote-inbound-rtp');
    count(sample, rtp, remote, receiving);
    sample.rttMs = roundTrip(remote, pair);
    this.derive(sample, rtp, remote, receiving);
    sample.details = describe({ pc: this.pc, report, sample, video, audio, transport, pair, receiving });
    return sample;
  }

  /** Adds the rates; keeps those of before when hardly any time has passed. */
  derive(sample, rtp, remote, receiving) {
    const now = {
      at: performance.now(),
      bytes:
        sum(rtp, receiving ? 'bytesReceived' : 'bytesSent') + sum(rtp, receiving ? 'headerBytesReceived' : 'headerBytesSent'),
      packets: sample.packets,
      lost: sample.packetsLost,
      retransmitted: sample.retransmitted,
    };
    const before = this.before;
    const seconds = before ? (now.at - before.at) / 1000 : 0;
    if (!before || seconds > 0.4) {
      this.before = now;
      if (before) this.rates = rates(before, now, seconds, remote, receiving);
    }
    Object.assign(sample, this.rates);
  }
}

function rates(before, now, seconds, remote, receiving) {
  const gained = (name) => Math.max(0, now[name] - before[name]);
  const expected = gained('packets') + gained('lost');
  const seen = expected > 0 ? (100 * gained('lost')) / expected : null;
  const told = remote.length > 0 ? 100 * Math.max(...remote.map((entry) => entry.fractionLost ?? 0)) : null;
  return {
    bitrate: (gained('bytes') * 8) / seconds,
    lossPercent: receiving ? seen : told,
    retransmittedPerSecond: gained('retransmitted') / seconds,
  };
}

function describePicture(sample, video, report) {
  const largest = video.reduce(
    (best, entry) => ((entry.frameHeight ?? 0) > (best?.frameHeight ?? -1) ? entry : best),
    undefined,
  );
  sample.framesDecoded = sum(video, 'framesDecoded');
  sample.freezes = sum(video, 'freezeCount');
  sample.frozenSeconds = sum(video, 'totalFreezesDuration');
  sample.framesEncoded = Math.max(0, ...video.map((entry) => entry.framesEncoded ?? 0));
  sample.framesPerSecond = Math.max(0, ...video.map((entry) => entry.framesPerSecond ?? 0));
  sample.width = largest?.frameWidth ?? 0;
  sample.height = largest?.frameHeight ?? 0;
  sample.codec = codecName(report, largest);
}

function count(sample, rtp, remote, receiving) {
  const name = receiving ? 'packetsReceived' : 'packetsSent';
  sample.videoPackets = sum(
    rtp.filter((entry) => entry.kind === 'video'),
    name,
  );
  sample.audioPackets = sum(
    rtp.filter((entry) => entry.kind === 'audio'),
    name,
  );
  sample.packets = sample.videoPackets + sample.audioPackets;
  sample.packetsLost = sum(receiving ? rtp : remote, 'packetsLost');
  sample.retransmitted = sum(rtp, receiving ? 'retransmittedPacketsReceived' : 'retransmittedPacketsSent');
}

function roundTrip(remote, pair) {
  const reported = remote.map((entry) => entry.roundTripTime).filter(Number.isFinite);
  const seconds = reported.length > 0 ? Math.max(...reported) : pair?.currentRoundTripTime;
  return Number.isFinite(seconds) ? seconds * 1000 : null;
}

/** `audioLevel` counts after the element's volume; while that is muted, the level of the header extension (RFC 6464) tells. */
function heard(pc, audio) {
  if (audio?.audioLevel) return audio.audioLevel;
  const receiver = pc.getReceivers().find(({ track }) => track.kind === 'audio');
  return Math.max(0, ...(receiver?.getSynchronizationSources?.() ?? []).map((source) => source.audioLevel ?? 0));
}

/** The rows of the details: [name, value] each, those without a value left out. */
function describe({ pc, report, sample, video, audio, transport, pair, receiving }) {
  const whole = (entries, name) => (entries.some((entry) => name in entry) ? sum(entries, name).toLocaleString('en') : null);
  const address = (candidate) =>
    candidate && `${candidate.address ?? candidate.candidateType}:${candidate.port} ${candidate.protocol}`;
  const mean = (total, n, factor = 1000) => (n > 0 ? `${Math.round((total * factor) / n)} ms` : null);
  const profile = report.get(video[0]?.codecId)?.sdpFmtpLine;
  const rows = [
    ['Video codec', sample.codec && (profile ? `${sample.codec} (${profile.replaceAll(';', '; ')})` : sample.codec)],
    ['Audio codec', sample.audioCodec],
    ['Connection', `${pc.connectionState}, ICE ${pc.iceConnectionState}`],
    ['From', address(report.get(pair?.localCandidateId))],
    ['To', address(report.get(pair?.remoteCandidateId))],
    ['Encryption', [dtlsVersion(transport?.tlsVersion), transport?.srtpCipher].filter(Boolean).join(', ')],
    [receiving ? 'Packets received' : 'Packets sent', sample.packets.toLocaleString('en')],
    ['Packets lost', sample.packetsLost.toLocaleString('en')],
    ['Retransmitted', sample.retransmitted.toLocaleString('en')],
    ['NACK / PLI / FIR', ['nackCount', 'pliCount', 'firCount'].map((name) => sum(video, name)).join(' / ')],
    ['Key frames', whole(video, receiving ? 'keyFramesDecoded' : 'keyFramesEncoded')],
  ];
  if (receiving) {
    rows.push(
      ['Frames dropped', whole(video, 'framesDropped')],
      ['Freezes', whole(video, 'freezeCount')],
      ['Jitter', video[0] && `${Math.round((video[0].jitter ?? 0) * 1000)} ms`],
      ['Jitter buffer, video', mean(sum(video, 'jitterBufferDelay'), sum(video, 'jitterBufferEmittedCount'))],
      ['Jitter buffer, audio', mean(sum(audio, 'jitterBufferDelay'), sum(audio, 'jitterBufferEmittedCount'))],
    );
  } else {
    const layers = video.filter((entry) => entry.rid);
    rows.push(
      ['Bandwidth estimate', pair?.availableOutgoingBitrate && bitrateWords(pair.availableOutgoingBitrate)],
      ['Held back by', video[0]?.qualityLimitationReason],
      ...layers.map((entry) => [`Layer ${entry.rid}`, layerWords(entry)]),
    );
  }
  return rows.filter(([, value]) => value !== null && value !== undefined && value !== '' && value !== 0);
}

/** What the server says of a session (`GET {session}/layer`), as rows. */
export function serverRows(view) {
  if (!view) return [];
  const layer = (of) => of && `${of.encoding ?? `spatial ${of.spatial}`}, temporal ${of.temporal}`;
  const rows = [
    ['Layer chosen', layer(view.layer_wanted)],
    ['Layer sent', layer(view.layer_sent) ?? (view.target_bitrate ? 'none: the connection carries no picture for now' : null)],
    ['Bandwidth estimate', view.target_bitrate && bitrateWords(view.target_bitrate)],
    ['Arrives, of what is sent', view.acknowledged_bitrate && bitrateWords(view.acknowledged_bitrate)],
    ['Watched by nobody', view.unwatched?.join(', ') || null],
    ['Loss on the way', Number.isFinite(view.loss) ? `${(view.loss * 100).toFixed(1)} %` : null],
    ['Sent again', view.packets_retransmitted?.toLocaleString('en')],
  ];
  return rows.filter(([, value]) => value !== null && value !== undefined && value !== 0);
}

function layerWords(entry) {
  if (!entry.frameHeight) return 'sends nothing';
  return `${entry.frameWidth}×${entry.frameHeight}, ${Math.round(entry.framesPerSecond ?? 0)} fps`;
}

/** `FEFC` is how DTLS 1.3 reads on the wire, `FEFD` DTLS 1.2 (RFC 9147 section 5.3). */
function dtlsVersion(hex) {
  return { FEFC: 'DTLS 1.3', FEFD: 'DTLS 1.2' }[hex?.toUpperCase()] ?? '';
}

function codecName(report, entry) {
  return report.get(entry?.codecId)?.mimeType?.split('/')[1] ?? '';
}

function sum(entries, name) {
  return entries.reduce((total, entry) => total + (entry[name] ?? 0), 0);
}

/** Bits per second in words. */
export function bitrateWords(bitrate) {
  if (bitrate >= 1e6) return `${(bitrate / 1e6).toFixed(bitrate >= 1e7 ? 1 : 2)} Mb/s`;
  return `${Math.round(bitrate / 1e3)} kb/s`;
}
