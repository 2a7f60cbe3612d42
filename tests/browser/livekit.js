// In the page: LiveKit's own client, and what a test asks of it.
window.lk = (() => {
  const { Room, RoomEvent, Track, createLocalTracks, setLogLevel } = window.LivekitClient;
  setLogLevel('debug');
  let room;
  const events = [];
  const data = [];
  return {
    events,
    data,
    get room() { return room; },
    async join(url, token, options = {}, connect = {}) {
      room = new Room(options);
      for (const name of Object.values(RoomEvent)) {
        room.on(name, (...args) => events.push({ name, at: Date.now(), what: args.map((a) => a?.identity ?? a?.trackSid ?? a?.sid ?? (typeof a === 'object' ? undefined : a)) }));
      }
      room.on(RoomEvent.DataReceived, (payload, participant, kind, topic) => data.push({ text: new TextDecoder().decode(payload), from: participant?.identity, topic, kind }));
      room.on(RoomEvent.TrackSubscribed, (track) => {
        const element = track.attach();
        element.id = track.sid;
        document.body.append(element);
      });
      room.on(RoomEvent.TrackUnsubscribed, (track) => track.detach().forEach((element) => element.remove()));
      await room.connect(url, token, connect);
      return room.localParticipant.sid;
    },
    async publish(kinds = ['audio', 'video'], options = {}, resolution = { width: 1280, height: 720, frameRate: 20 }) {
      const tracks = await createLocalTracks({ audio: kinds.includes('audio'), video: kinds.includes('video') && { resolution } });
      for (const track of tracks) await room.localParticipant.publishTrack(track, options);
    },
    /** What each remote track delivers. */
    async received() {
      const all = [];
      for (const participant of room.remoteParticipants.values()) {
        for (const publication of participant.trackPublications.values()) {
          const entry = { identity: participant.identity, sid: publication.trackSid, kind: publication.kind, source: publication.source, muted: publication.isMuted, subscribed: publication.isSubscribed };
          const report = await publication.track?.receiver?.getStats();
          report?.forEach((stat) => {
            if (stat.type !== 'inbound-rtp') return;
            entry.frames = stat.framesDecoded;
            entry.width = stat.frameWidth;
            entry.packets = stat.packetsReceived;
            entry.codec = report.get(stat.codecId)?.mimeType.split('/')[1];
            entry.energy = stat.totalAudioEnergy;
          });
          // What is decoded need not be shown.
          const [element] = publication.track?.attachedElements ?? [];
          entry.shown = publication.kind === 'video' && element?.readyState >= 2 && element.videoWidth > 0;
          all.push(entry);
        }
      }
      return all;
    },
    /** The layers that are sent. */
    async sent() {
      const layers = [];
      for (const { track } of room.localParticipant.trackPublications.values()) {
        const senders = [track?.sender, ...[...track?.simulcastCodecs?.values() ?? []].map((second) => second.sender)];
        for (const sender of senders.filter(Boolean)) {
          const report = await sender.getStats();
          report.forEach((stat) => {
            if (stat.type !== 'outbound-rtp') return;
            const codec = report.get(stat.codecId)?.mimeType.split('/')[1];
            // Of a layer that is off some statistics stay as they were: it is how many pictures come out that counts.
            const flows = stat.active !== false && stat.framesPerSecond > 0;
            layers.push({ kind: stat.kind, rid: stat.rid, width: stat.frameWidth, packets: stat.packetsSent, active: stat.active, codec, flows });
          });
        }
      }
      return layers;
    },
  };
})();
