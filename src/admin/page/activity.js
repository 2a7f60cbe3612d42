// One thing the page does: publish to a room, or watch it, through as many connections as it takes.
//
// `run()` is the whole story in order: open the source, then attempt after attempt with a growing pause between, until
// it is stopped or the cause is one that waiting does not cure. States: opening, connecting, waiting, live,
// reconnecting, error, ended.

import { ConnectionError, explain } from './explain.js';
import { openSource } from './source.js';
import { StatsReader, emptySample, serverRows } from './stats.js';
import { Switch } from './unwatched.js';
import { Refusal, negotiate } from './whip.js';

const CONNECT_LIMIT_MS = 12_000;
const DISCONNECTED_LIMIT_MS = 5_000;
const STALL_LIMIT_MS = 3_000;
const SAMPLE_PERIOD_MS = 1_000;
const PAUSES_S = [1, 2, 4, 8, 15];
const CODEC_COMPANIONS = /^video\/rtx$/i;

export class Activity {
  /**
   * `plan`: mode ('watch' | 'publish'), room, token, and for a publisher source, codec, simulcast, width, height, fps.
   * `report`: onState(state, extra), onStream(stream), onSample(sample); place() gives width and height of what the picture is shown in.
   */
  constructor(plan, report) {
    Object.assign(this, { plan, report });
    this.state = 'opening';
    this.pc = null;
    this.session = null;
    this.source = null;
    this.wasLive = false;
    this.lastCause = null;
    this.stopping = new AbortController();
  }

  get stopped() {
    return this.stopping.signal.aborted;
  }

  async run() {
    try {
      await this.open();
      for (let failures = 0; ; failures += 1) {
        const live = (this.attemptWasLive = false);
        const cause = await this.attempt();
        if (this.stopped) return;
        if (this.attemptWasLive !== live) failures = 0;
        if (!this.mayRetry(cause)) throw cause;
        this.lastCause = cause;
        await this.pause(failures, cause);
        if (this.stopped) return;
      }
    } catch (cause) {
      if (this.stopped) return;
      this.release();
      this.set('error', { cause });
    }
  }

  /** Ends everything. `keepalive` when the page itself goes away. */
  stop({ keepalive = false } = {}) {
    this.stopping.abort();
    this.session?.close({ keepalive });
    this.session = null;
    this.release();
  }

  retryNow() {
    this.skipPause?.();
  }

  async open() {
    if (this.plan.mode === 'watch') return;
    this.set('opening');
    const source = await openSource(this.plan.source, this.plan);
    if (this.stopped) return source.stop();
    this.source = source;
    this.report.onStream(source.stream);
    const [picture] = source.stream.getVideoTracks();
    picture?.addEventListener('ended', () => {
      if (this.stopped) return;
      this.stop();
      this.set('ended');
    });
  }

  release() {
    this.pc?.close();
    this.source?.stop();
    this.source = null;
  }

  /** A viewer keeps trying; a publisher only comes back to where it has been live. */
  mayRetry(cause) {
    const { retry } = explain(cause, this.plan);
    return retry && (this.plan.mode === 'watch' || this.wasLive);
  }

  /** One connection, from its offer to its end. Resolves to what ended it. */
  async attempt() {
    this.set('connecting', { cause: this.lastCause });
    const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    this.pc = pc;
    const watched = this.watchOver(pc);
    try {
      this.addMedia(pc);
      const { mode, room, token } = this.plan;
      const endpoint = `/${mode === 'watch' ? 'whep' : 'whip'}/${encodeURIComponent(room)}`;
      const session = await negotiate({ endpoint, pc, token, signal: this.stopping.signal });
      if (this.stopped) return session.close();
      this.session = session;
      return await watched.ended;
    } catch (error) {
      return error;
    } finally {
      watched.end();
      pc.close();
      this.session?.close();
      this.session = null;
    }
  }

  addMedia(pc) {
    if (this.plan.mode === 'publish') return addTracks(pc, this.source.stream, this.plan);
    const stream = new MediaStream();
    pc.addEventListener('track', ({ track }) => {
      stream.addTrack(track);
      this.report.onStream(stream);
    });
    offerDependencyDescriptor(pc.addTransceiver('video', { direction: 'recvonly' }));
    pc.addTransceiver('audio', { direction: 'recvonly' });
  }

  /** Samples `pc`, follows its state, and settles `ended` with the error that calls for another attempt. */
  watchOver(pc) {
    let settle;
    let lostTimer;
    let connected = false;
    const ended = new Promise((resolve) => (settle = resolve));
    const fail = (kind) => settle(new ConnectionError(kind, mediaPort(pc)));
    const follow = () => {
      const state = pc.connectionState;
      clearTimeout(lostTimer);
      if (state === 'connected') {
        connected = true;
        if (this.state === 'connecting') this.set(this.plan.mode === 'watch' ? 'waiting' : 'connecting');
      }
      if (state === 'failed') fail(connected ? 'lost' : 'never');
      if (state === 'closed') fail('lost');
      if (state === 'disconnected') {
        lostTimer = setTimeout(() => fail('lost'), DISCONNECTED_LIMIT_MS);
        this.session?.isGone().then((gone) => gone && fail('gone'));
      }
    };
    const followDtls = ({ target }) => target.state === 'closed' && fail('gone');
    pc.addEventListener('connectionstatechange', follow);
    pc.addEventListener('signalingstatechange', () => {
      for (const { receiver } of pc.getTransceivers()) receiver.transport?.addEventListener('statechange', followDtls);
    });
    const limit = setTimeout(() => connected || fail('never'), CONNECT_LIMIT_MS);
    const judge = this.judge(pc);
    const sampling = setInterval(judge, SAMPLE_PERIOD_MS);
    this.sampleNow = judge;
    this.stopping.signal.addEventListener('abort', () => settle(null), { once: true });
    const end = () => {
      clearTimeout(limit);
      clearTimeout(lostTimer);
      clearInterval(sampling);
      pc.removeEventListener('connectionstatechange', follow);
      this.sampleNow = null;
    };
    return { ended, end };
  }

  /** Takes samples, and tells from what moves between them whether the room is live. */
  judge(pc) {
    const reader = new StatsReader(pc);
    let before = emptySample(this.state);
    let moved = 0;
    let rounds = 0;
    let view = null; // what the server says of this session: every other sample, or each time if encodings are switched by it
    let encodings = null;
    let told = null; // freezes that the server has been told of
    let fitted = ''; // and the size of the picture's place
    let soundOnly = 0; // samples in a row: sound often comes a moment before the picture
    return async () => {
      const sample = await reader.read(this.state).catch(() => null);
      encodings ??= switchOf(pc);
      if (encodings || (this.plan.mode === 'watch' && rounds++ % 2 === 0)) view = (await this.session?.view()) ?? null;
      if (this.plan.mode === 'watch' && sample && sample.freezes !== told) {
        told = sample.freezes;
        await this.session?.tell(sample);
      }
      const place = this.plan.mode === 'watch' ? this.report.place() : [0, 0];
      if (this.session && Math.min(...place) > 0 && fitted !== place.join()) {
        fitted = place.join();
        await this.session.fit(...place);
      }
      await encodings?.follow(view?.unwatched ?? []).catch(() => {});
      if (!sample || this.stopped || this.pc !== pc || pc.connectionState === 'closed') return;
      const frames = sample.framesDecoded + sample.framesEncoded;
      const framesMove = frames > before.framesDecoded + before.framesEncoded;
      const soundAlone = sample.audioPackets > before.audioPackets && sample.videoPackets === before.videoPackets;
      soundOnly = soundAlone && !framesMove ? soundOnly + 1 : 0;
      before = sample;
      if (pc.connectionState === 'connected') {
        if (framesMove || soundOnly >= 3) {
          moved = performance.now();
          this.wasLive = this.attemptWasLive = true;
          this.lastCause = null;
          if (this.state !== 'live') this.set('live');
        } else if (this.state === 'live' && this.plan.mode === 'watch' && performance.now() - moved > STALL_LIMIT_MS) {
          this.set('waiting');
        }
      }
      sample.state = this.state;
      sample.details.push(...serverRows(view));
      this.report.onSample(sample);
    };
  }

  /** Counts the seconds down to the next attempt. */
  async pause(failures, cause) {
    const asked = cause instanceof Refusal ? cause.retryAfterS : null;
    const seconds = asked ?? PAUSES_S[Math.min(failures, PAUSES_S.length - 1)];
    const skipped = new Promise((resolve) => (this.skipPause = () => resolve('skip')));
    for (let left = seconds; left > 0 && !this.stopped; left -= 1) {
      this.set('reconnecting', { cause, inSeconds: left });
      const second = new Promise((resolve) => setTimeout(resolve, 1000));
      if ((await Promise.race([second, skipped])) === 'skip') break;
    }
    // Up to half a second more, so that the viewers of a restarted server do not all come in the same instant.
    await Promise.race([skipped, new Promise((resolve) => setTimeout(resolve, Math.random() * 500))]);
    this.skipPause = null;
  }

  set(state, extra = {}) {
    if (this.stopped && state !== 'ended') return;
    this.state = state;
    this.report.onState(state, extra);
  }
}

/** What switches the encodings of `pc`'s picture on and off, if it has several. */
function switchOf(pc) {
  const picture = pc.getSenders().find((sender) => sender.getParameters().encodings?.length > 1);
  return picture ? new Switch(picture) : null;
}

/** Chromium decodes scalable AV1 only with this header extension, and does not offer it by itself. */
function offerDependencyDescriptor(transceiver) {
  const extensions = transceiver.getHeaderExtensionsToNegotiate?.() ?? [];
  const descriptor = extensions.find(({ uri }) => uri.includes('dependency-descriptor'));
  if (!descriptor) return;
  descriptor.direction = 'sendrecv';
  transceiver.setHeaderExtensionsToNegotiate(extensions);
}

/** The UDP port of the server's first candidate, for the advice when nothing gets through to it. */
function mediaPort(pc) {
  return /^a=candidate:\S+ 1 udp \d+ \S+ (\d+)/im.exec(pc.remoteDescription?.sdp ?? '')?.[1];
}

function addTracks(pc, stream, { codec, simulcast, source }) {
  for (const track of stream.getTracks()) {
    const options = { direction: 'sendonly', streams: [stream] };
    if (track.kind === 'video') options.sendEncodings = encodings(track, simulcast && source !== 'screen', codec);
    const transceiver = pc.addTransceiver(track, options);
    if (track.kind === 'video' && codec) prefer(transceiver, codec);
  }
}

/** Three layers, each half as wide as the next, or the picture as it is. */
function encodings(track, simulcast, codec) {
  if (!simulcast) return [{ maxBitrate: track.contentHint === 'detail' ? 4_000_000 : 2_500_000 }];
  const layers = [
    { rid: 'q', scaleResolutionDownBy: 4, maxBitrate: 200_000 },
    { rid: 'h', scaleResolutionDownBy: 2, maxBitrate: 700_000 },
    { rid: 'f', scaleResolutionDownBy: 1, maxBitrate: 2_500_000 },
  ];
  // Chromium takes several encodings of VP9 for spatial layers of one stream unless told a mode.
  const mode = codec === 'VP9' || codec === 'AV1' ? { scalabilityMode: 'L1T3' } : {};
  return layers.map((layer) => ({ ...layer, ...mode }));
}

/** Offers one codec alone (with RTX), so that what is asked for is what is sent, or the server refuses. */
function prefer(transceiver, codec) {
  const all = RTCRtpSender.getCapabilities('video')?.codecs ?? [];
  const wanted = all.filter(({ mimeType }) => mimeType.toLowerCase() === `video/${codec.toLowerCase()}`);
  if (wanted.length === 0) throw new Error(`This browser cannot send ${codec}.`);
  transceiver.setCodecPreferences([...wanted, ...all.filter(({ mimeType }) => CODEC_COMPANIONS.test(mimeType))]);
}
