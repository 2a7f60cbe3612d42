// A WHIP and WHEP client of a few lines for any page, and eyes and ears for tests: what a video element really shows and what
// its peer connection really heard. Injected into pages by browsers.mjs; no imports, so that every browser takes it as it is.
//
// The server's own page is tested through the same functions: they take any RTCPeerConnection and any <video>.

(() => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  /** A test picture that never stands still. */
  function testSource({ width: firstWidth = 640, height: firstHeight = 360, frameRate = 25, detail = 0 }) {
    const canvas = document.createElement('canvas');
    Object.assign(canvas, { width: firstWidth, height: firstHeight });
    const context = canvas.getContext('2d');
    let frame = 0;
    const draw = () => {
      frame += 1;
      const { width, height } = canvas;
      const stripe = width / 8;
      for (let i = 0; i < 8; i += 1) {
        context.fillStyle = `hsl(${i * 45}, 80%, 50%)`;
        context.fillRect(i * stripe, 0, stripe, height);
      }
      // `detail` small squares anew in each frame: many packets a frame.
      for (let i = 0; i < detail; i += 1) {
        context.fillStyle = `hsl(${Math.random() * 360}, 60%, 50%)`;
        context.fillRect(Math.random() * width, Math.random() * height, 16, 16);
      }
      context.fillStyle = 'white';
      context.fillRect((frame * 7) % width, height / 4, width / 5, height / 2);
      context.fillStyle = 'black';
      context.font = `${height / 6}px sans-serif`;
      context.fillText(String(frame), width / 3, height / 2);
    };
    draw();
    const timer = setInterval(draw, 1000 / frameRate);
    const stream = canvas.captureStream(frameRate);
    const resize = (width, height) => { Object.assign(canvas, { width, height }); draw(); };
    return { stream, resize, end: () => clearInterval(timer) };
  }

  /**
   * A clapperboard: each second the picture is white for an eighth of it, and a tone is heard as long. A picture is taken when that
   * changes and not only when one is due, for a frame of 15 in a second lasts longer than what is to be measured.
   */
  async function clapper({ width: firstWidth = 640, height: firstHeight = 360, frameRate = 25 }) {
    const LASTS = 0.125;
    const canvas = document.createElement('canvas');
    Object.assign(canvas, { width: firstWidth, height: firstHeight });
    const context = canvas.getContext('2d');
    const audio = new AudioContext();
    const [oscillator, gain, speaker] = [audio.createOscillator(), audio.createGain(), audio.createMediaStreamDestination()];
    oscillator.frequency.value = 1_000;
    gain.gain.value = 0;
    oscillator.connect(gain).connect(speaker);
    oscillator.start();
    await audio.resume();
    console.log(`the sound's clock is ${audio.baseLatency} s ahead`);
    const begin = Math.ceil(audio.currentTime) + 1;
    for (let second = begin; second < begin + 600; second += 1) {
      gain.gain.setValueAtTime(0.5, second);
      gain.gain.setValueAtTime(0, second + LASTS);
    }
    const stream = canvas.captureStream(0);
    const [picture] = stream.getVideoTracks();
    stream.addTrack(speaker.stream.getAudioTracks()[0]);
    let [frame, drawn, was] = [0, 0, false];
    const draw = () => {
      // What the clock is ahead of what has been handed over.
      const now = audio.currentTime - audio.baseLatency;
      const claps = now >= begin && now % 1 < LASTS;
      if (claps === was && now - drawn < 1 / frameRate) return;
      [frame, drawn, was] = [frame + 1, now, claps];
      const { width, height } = canvas;
      context.fillStyle = claps ? 'white' : '#404040';
      context.fillRect(0, 0, width, height);
      context.fillStyle = claps ? 'black' : 'white';
      context.fillRect((frame * 7) % width, height / 4, width / 5, height / 2);
      picture.requestFrame();
    };
    const timer = setInterval(draw, 4);
    const resize = (width, height) => { Object.assign(canvas, { width, height }); drawn = 0; draw(); };
    return { stream, resize, end: () => { clearInterval(timer); audio.close(); } };
  }

  /** `sound: 'microphone'` takes the browser's fake one: Web Audio in Firefox wants an audio device even to make a tone. */
  async function source(options) {
    if (options.clap) return clapper(options);
    const media = testSource(options);
    if (options.sound !== 'microphone') {
      media.stream.addTrack(await tone(media));
      return media;
    }
    const microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
    media.stream.addTrack(microphone.getAudioTracks()[0]);
    return media;
  }

  async function tone(media) {
    const audio = new AudioContext();
    const oscillator = audio.createOscillator();
    oscillator.frequency.value = 440;
    const speaker = audio.createMediaStreamDestination();
    oscillator.connect(speaker);
    oscillator.start();
    await audio.resume();
    const endPicture = media.end;
    media.end = () => { endPicture(); audio.close(); };
    return speaker.stream.getAudioTracks()[0];
  }

  /** Offers the wanted codec and what goes with it (rtx; red and ulpfec if wanted) only. */
  function prefer(transceiver, codec, fec = false) {
    const all = RTCRtpReceiver.getCapabilities('video').codecs;
    const with_it = [codec, 'rtx', ...(fec ? ['red', 'ulpfec'] : [])].map((name) => `video/${name}`.toLowerCase());
    const wanted = all.filter((c) => with_it.includes(c.mimeType.toLowerCase()));
    if (!wanted.some((c) => !/rtx|red|ulpfec/i.test(c.mimeType))) throw new Error(`this browser has no ${codec}`);
    transceiver.setCodecPreferences(wanted);
  }

  /** Offers no redundancy (RED, RFC 2198) for sound. */
  function withoutRed(transceiver) {
    transceiver.setCodecPreferences(RTCRtpReceiver.getCapabilities('audio').codecs.filter((c) => !/red/i.test(c.mimeType)));
  }

  /**
   * Offers the AV1 dependency descriptor, for any codec, or does not. By itself Chromium offers it with simulcast and with a
   * scalability mode, and without them not.
   */
  function offerDependencyDescriptor(transceiver, wanted = true) {
    const extensions = transceiver.getHeaderExtensionsToNegotiate();
    const descriptor = extensions.find((extension) => extension.uri.includes('dependency-descriptor'));
    if (!descriptor) throw new Error('this browser has no dependency descriptor');
    descriptor.direction = wanted ? 'sendrecv' : 'stopped';
    transceiver.setHeaderExtensionsToNegotiate(extensions);
  }

  async function gathered(pc) {
    for (let i = 0; i < 20 && pc.iceGatheringState !== 'complete'; i += 1) await pause(50);
  }

  /**
   * Offer, POST, answer. `mediaPort` replaces the port of the answer's candidates: the way through a relay. What `without` matches is
   * taken out of the offer that the server sees, line by line. `noNack`: nothing is asked for again. `startBitrate`, kb/s: what Chromium takes
   * the path up for at first (its own fmtp parameter).
   */
  async function negotiate(pc, { url, token, mediaPort, without, noNack, startBitrate }) {
    const { sdp: made } = await pc.createOffer();
    // The answer alone does not keep Chromium from asking.
    await pc.setLocalDescription({ type: 'offer', sdp: noNack ? made.replace(/^a=rtcp-fb:\d+ nack\r\n/gm, '') : made });
    await gathered(pc);
    const headers = { 'content-type': 'application/sdp' };
    if (token) headers.authorization = `Bearer ${token}`;
    const { sdp: whole } = pc.localDescription;
    const offer = without ? whole.replace(new RegExp(`^.*(${without}).*\\r\\n`, 'gm'), '') : whole;
    const response = await fetch(url, { method: 'POST', headers, body: offer });
    const body = await response.text();
    if (response.status !== 201) throw new Error(`${url}: ${response.status} ${body}`);
    let sdp = body;
    if (mediaPort) {
      sdp = sdp
        .replace(/^a=candidate:.* tcp .*\r\n/gim, '')
        .replace(/^(a=candidate:\S+ \d udp \d+ \S+ )\d+/gim, `$1${mediaPort}`);
    }
    if (startBitrate) {
      sdp = sdp.replace(/^a=rtpmap:(\d+) (?:VP8|VP9|H264|AV1)\/90000\r\n(a=fmtp:\1 )?/gm, (line, type, fmtp) => {
        const start = `x-google-start-bitrate=${startBitrate}`;
        return fmtp ? `${line}${start};` : `${line}a=fmtp:${type} ${start}\r\n`;
      });
    }
    await pc.setRemoteDescription({ type: 'answer', sdp });
    return { location: new URL(response.headers.get('location'), url).href, answer: body };
  }

  async function connected(pc, ms = 15_000) {
    const end = Date.now() + ms;
    while (pc.connectionState !== 'connected') {
      if (Date.now() > end) throw new Error(`peer connection is ${pc.connectionState} (ICE ${pc.iceConnectionState}) after ${ms} ms`);
      await pause(50);
    }
  }

  /** `maintainResolution`: not a smaller picture until the encoder has what it needs, or time; `scalabilityMode` is that of a single encoding (`L3T3_KEY`); `dependencyDescriptor` (true or false) offers that header extension or not. */
  async function publish(options) {
    const media = await source(options);
    const pc = new RTCPeerConnection();
    for (const track of media.stream.getTracks()) {
      const init = { direction: 'sendonly', streams: [media.stream] };
      if (track.kind === 'video' && options.simulcast) {
        init.sendEncodings = [
          { rid: 'q', scaleResolutionDownBy: 4 },
          { rid: 'h', scaleResolutionDownBy: 2 },
          { rid: 'f', scaleResolutionDownBy: 1 },
        ].map((encoding) => ({ ...encoding, scalabilityMode: options.scalabilityMode, maxBitrate: options.maxBitrates?.[encoding.rid] }));
      } else if (track.kind === 'video' && (options.scalabilityMode || options.maxBitrate)) {
        init.sendEncodings = [{ scalabilityMode: options.scalabilityMode, maxBitrate: options.maxBitrate }];
      }
      const transceiver = pc.addTransceiver(track, init);
      if (track.kind === 'video' && options.maintainResolution) {
        const parameters = { ...transceiver.sender.getParameters(), degradationPreference: 'maintain-resolution' };
        await transceiver.sender.setParameters(parameters);
      }
      if (track.kind === 'audio' && options.plainSound) withoutRed(transceiver);
      if (track.kind === 'video' && options.codec) prefer(transceiver, options.codec, options.fec);
      if (track.kind === 'video' && options.dependencyDescriptor !== undefined) {
        offerDependencyDescriptor(transceiver, options.dependencyDescriptor);
      }
    }
    const session = await negotiate(pc, options);
    window.session = { pc, ...session, resize: media.resize, end: media.end };
    await connected(pc, options.connectMs);
    return session;
  }

  async function watch(options) {
    const pc = new RTCPeerConnection();
    const video = document.createElement('video');
    video.autoplay = true;
    video.playsInline = true;
    video.srcObject = new MediaStream();
    document.body.append(video);
    pc.ontrack = ({ track }) => { video.srcObject.addTrack(track); video.play().catch(() => {}); };
    const sound = pc.addTransceiver('audio', { direction: 'recvonly' });
    if (options.plainSound) withoutRed(sound);
    if (!options.soundAlone) {
      const transceiver = pc.addTransceiver('video', { direction: 'recvonly' });
      if (options.codec) prefer(transceiver, options.codec, options.fec);
      if (options.dependencyDescriptor !== undefined) offerDependencyDescriptor(transceiver, options.dependencyDescriptor);
    }
    const session = await negotiate(pc, options);
    window.session = { pc, ...session, end: () => video.remove() };
    await connected(pc, options.connectMs);
    return session;
  }

  /** Ends the session politely: DELETE, then close. */
  async function leave({ token } = {}) {
    const { pc, location, end } = window.session;
    const response = await fetch(location, { method: 'DELETE', headers: token ? { authorization: `Bearer ${token}` } : {} });
    pc.close();
    end();
    return response.status;
  }

  function peerConnection() {
    const pc = window.session?.pc ?? window.distributary?.pc;
    if (!pc) throw new Error('this page has no peer connection');
    return pc;
  }

  /** The numbers that tests look at, out of getStats. */
  async function stats() {
    const pc = peerConnection();
    const reports = [...(await pc.getStats()).values()];
    const sum = (type, kind, field) => reports
      .filter((r) => r.type === type && r.kind === kind)
      .reduce((total, r) => total + (r[field] ?? 0), 0);
    const video = reports.find((r) => r.type === 'inbound-rtp' && r.kind === 'video');
    const codec = reports.find((r) => r.id === video?.codecId) ?? reports.find((r) => r.type === 'codec' && /^video/.test(r.mimeType));
    const transport = reports.find((r) => r.type === 'transport') ?? {};
    return {
      at: performance.now(),
      state: pc.connectionState,
      codec: codec?.mimeType,
      framesReceived: sum('inbound-rtp', 'video', 'framesReceived'),
      framesDecoded: sum('inbound-rtp', 'video', 'framesDecoded'),
      framesDropped: sum('inbound-rtp', 'video', 'framesDropped'),
      keyFramesDecoded: sum('inbound-rtp', 'video', 'keyFramesDecoded'),
      framesEncoded: sum('outbound-rtp', 'video', 'framesEncoded'),
      limitedBy: reports.find((r) => r.type === 'outbound-rtp' && r.kind === 'video')?.qualityLimitationReason,
      scalabilityMode: reports.find((r) => r.type === 'outbound-rtp' && r.kind === 'video')?.scalabilityMode,
      framesSent: sum('outbound-rtp', 'video', 'framesSent'),
      layers: reports.filter((r) => r.type === 'outbound-rtp' && r.kind === 'video' && r.framesSent > 0).map((r) => r.rid),
      frameWidth: video?.frameWidth,
      freezeCount: video?.freezeCount,
      freezeSeconds: video?.totalFreezesDuration,
      // Milliseconds from the publisher's time of the picture shown to now, by two clocks: the same for all viewers that are not behind.
      behind: video && video.timestamp - video.estimatedPlayoutTimestamp,
      packetsReceived: sum('inbound-rtp', 'video', 'packetsReceived'),
      packetsLost: sum('inbound-rtp', 'video', 'packetsLost'),
      retransmittedPacketsReceived: sum('inbound-rtp', 'video', 'retransmittedPacketsReceived'),
      nackCount: sum('inbound-rtp', 'video', 'nackCount'),
      pliCount: sum('inbound-rtp', 'video', 'pliCount'),
      packetsSent: sum('outbound-rtp', 'video', 'packetsSent'),
      bytesSent: sum('outbound-rtp', 'video', 'bytesSent'),
      retransmittedPacketsSent: sum('outbound-rtp', 'video', 'retransmittedPacketsSent'),
      nacksReceived: sum('outbound-rtp', 'video', 'nackCount'),
      audioPackets: sum('inbound-rtp', 'audio', 'packetsReceived'),
      audioEnergy: sum('inbound-rtp', 'audio', 'totalAudioEnergy'),
      audioLevel: Math.max(0, ...reports.filter((r) => r.type === 'inbound-rtp' && r.kind === 'audio').map((r) => r.audioLevel ?? 0)),
      samplesReceived: sum('inbound-rtp', 'audio', 'totalSamplesReceived'),
      samplesConcealed: sum('inbound-rtp', 'audio', 'concealedSamples'),
      audioBytes: sum('inbound-rtp', 'audio', 'bytesReceived'),
      audioLost: sum('inbound-rtp', 'audio', 'packetsLost'),
      // Of sound, video and all else.
      bytesReceived: transport.bytesReceived,
      // RTCP, but for the handshake, where nothing is published.
      told: transport.packetsSent,
      srtpCipher: transport.srtpCipher,
      dtlsVersion: transport.tlsVersion,
    };
  }

  /**
   * Notes each picture that is decoded from now on in `window.pictures`: when, by a clock that the pages of a machine share, and its width.
   * Every one of them, where a video element that is not looked at may leave some out.
   */
  async function notePictures() {
    window.pictures = [];
    const track = peerConnection().getReceivers().map((r) => r.track).find((t) => t?.kind === 'video');
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    for (;;) {
      const { done, value: frame } = await reader.read();
      if (done) return;
      window.pictures.push([performance.timeOrigin + performance.now(), frame.codedWidth]);
      frame.close();
    }
  }

  function look(video) {
    const canvas = document.createElement('canvas');
    canvas.width = 96;
    canvas.height = 54;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const luma = new Float64Array(rgba.length / 4);
    for (let i = 0; i < luma.length; i += 1) luma[i] = 0.3 * rgba[4 * i] + 0.59 * rgba[4 * i + 1] + 0.11 * rgba[4 * i + 2];
    return luma;
  }

  /** Two looks at the picture `ms` apart: its mean brightness, contrast, and the share of its pixels that changed. */
  async function picture(ms = 500) {
    const video = [...document.querySelectorAll('video')].find((v) => v.videoWidth > 0 && v.srcObject);
    if (!video) return { mean: 0, contrast: 0, changed: 0, width: 0, height: 0 };
    const first = look(video);
    await pause(ms);
    const second = look(video);
    const mean = second.reduce((a, b) => a + b, 0) / second.length;
    const contrast = Math.sqrt(second.reduce((a, b) => a + (b - mean) ** 2, 0) / second.length);
    const changed = second.filter((value, i) => Math.abs(value - first[i]) > 12).length / second.length;
    return { mean, contrast, changed, width: video.videoWidth, height: video.videoHeight };
  }

  /** The loudness of the received audio as a Web Audio analyser hears it: independent of getStats. */
  async function loudness(ms = 600) {
    // A muted element mutes the receiver's own audioLevel and totalAudioEnergy too.
    for (const video of document.querySelectorAll('video')) video.muted = false;
    const track = peerConnection().getReceivers().map((r) => r.track).find((t) => t?.kind === 'audio');
    if (!track) return 0;
    const audio = new AudioContext();
    const analyser = audio.createAnalyser();
    audio.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    await audio.resume();
    let peak = 0;
    const samples = new Float32Array(analyser.fftSize);
    for (let waited = 0; waited < ms; waited += 50) {
      await pause(50);
      analyser.getFloatTimeDomainData(samples);
      peak = Math.max(peak, Math.hypot(...samples) / Math.sqrt(samples.length));
    }
    await audio.close();
    return peak;
  }

  window.client = { publish, watch, leave, stats, picture, notePictures, loudness, testSource, prefer, offerDependencyDescriptor };
})();
