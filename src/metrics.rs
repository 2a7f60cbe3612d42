//! Every counter and drop reason of the data plane, declared once: name, help text and place in the table.
//!
//! A worker is the only writer of its table, so counting is a relaxed load and store, no locked instruction. Readers (the
//! metrics endpoint) see values that may be a moment old.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! declare {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $label:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $(#[doc = $help] $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// Label or name in the metrics output.
            pub const fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
            pub const fn help(self) -> &'static str {
                match self { $($name::$variant => $help,)* }
            }
        }
    };
}

declare! {
    /// Why a datagram or packet went no further. Exported as `distributary_dropped_packets_total{reason="…"}`.
    DropReason {
        Oversize = "oversize", "datagram larger than the server accepts";
        Empty = "empty", "datagram of no bytes";
        UnknownProtocol = "unknown_protocol", "first byte is none of STUN, DTLS, RTP or RTCP (RFC 7983)";
        StunMalformed = "stun_malformed", "not a well-formed STUN message";
        StunUnauthenticated = "stun_unauthenticated", "STUN request without or with a wrong MESSAGE-INTEGRITY or FINGERPRINT";
        StunUnknownUser = "stun_unknown_user", "STUN request for a user name no session has";
        StunUnexpected = "stun_unexpected", "STUN message that is not a binding request";
        UnknownSource = "unknown_source", "DTLS, RTP or RTCP from an address that no checked candidate pair has";
        DtlsLimit = "dtls_limit", "too many DTLS handshakes in flight, in all or from this source";
        DtlsFailed = "dtls_failed", "DTLS handshake failed or its certificate did not match the fingerprint";
        SctpMalformed = "sctp_malformed", "SCTP packet that is not well-formed or that no WebRTC client sends (RFC 8831)";
        SctpFlood = "sctp_flood", "SCTP packet with DATA faster, or further ahead, than a session may send it";
        DataUnknownChannel = "data_unknown_channel", "message on a data channel that is not open, or one beyond the limit";
        DataTooLong = "data_too_long", "message longer than the receiver's SDP allows (a=max-message-size)";
        DataFull = "data_full", "message on an unreliable data channel that waited while newer ones came";
        DataSlowReceiver = "data_slow_receiver", "receiver that lost its data channels because too much waited on reliable ones";
        BeforeKeys = "before_keys", "RTP or RTCP before the DTLS handshake ended";
        RtpMalformed = "rtp_malformed", "not a well-formed RTP packet (RFC 3550 section 5.1)";
        RtcpMalformed = "rtcp_malformed", "not a well-formed RTCP compound packet";
        SrtpAuthentication = "srtp_authentication", "SRTP or SRTCP authentication tag is wrong";
        SrtpReplay = "srtp_replay", "SRTP or SRTCP index already seen or too old";
        SsrcUnknown = "ssrc_unknown", "RTP of an SSRC that no m-line claims";
        RidChanged = "rid_changed", "packet whose RTP stream id is another than that which its SSRC began with (RFC 8852)";
        SsrcLimit = "ssrc_limit", "more SSRCs from one peer than the server follows";
        PayloadTypeUnknown = "payload_type_unknown", "payload type that was not negotiated";
        PayloadMalformed = "payload_malformed", "codec payload that its descriptor does not describe";
        DependencyMalformed = "dependency_malformed", "dependency descriptor that is cut short or has more than the server keeps (AV1 RTP specification, appendix A)";
        DependencyUnknown = "dependency_unknown", "dependency descriptor that refers to a template or structure the server has not received";
        RtxMalformed = "rtx_malformed", "retransmission without an original sequence number or original stream (RFC 4588)";
        RedMalformed = "red_malformed", "redundant sound whose headers are cut short, reach beyond the packet, make no sense or are too many (RFC 2198)";
        FecMalformed = "fec_malformed", "forward error correction packet that is cut short, protects nothing, or does not fit the packets that it names (RFC 5109)";
        Duplicate = "duplicate", "packet that had already arrived";
        TooLate = "too_late", "packet older than the window of its stream";
        Padding = "padding", "packet of padding only (a bandwidth probe)";
        NotPublishing = "not_publishing", "RTP from a session that publishes nothing";
        MeshFull = "mesh_full", "ring to another worker is full";
        EventsFull = "events_full", "ring to a slow-path thread is full";
        ArenaExhausted = "arena_exhausted", "no free receive buffer";
        SendFailed = "send_failed", "the kernel refused a datagram (buffer full, unreachable)";
        AwaitingKeyFrame = "awaiting_key_frame", "packet not forwarded to a receiver that still waits for a key frame";
        NackTooOld = "nack_too_old", "retransmission asked for a packet that is no longer kept";
        RetransmissionLimit = "retransmission_limit", "retransmission asked for beyond its share of what the viewer's path carries";
        FeedbackUnsent = "feedback_unsent", "feedback of packets' arrival (transport-wide, or RFC 8888) about packets that were never sent, or that was not agreed on";
        FeedbackFlood = "feedback_flood", "feedback of packets' arrival, or REMB, more often than any client sends it";
        PacerFull = "pacer_full", "packet that waited for its turn on a path that does not carry its stream";
        TcpMalformed = "tcp_malformed", "ICE-TCP connection closed because it does not begin with a STUN binding request or has a frame that no packet fits (RFC 4571)";
        TcpLimit = "tcp_limit", "ICE-TCP connection closed because there are too many, in all or from this source";
        TcpSlowReader = "tcp_slow_reader", "packet for a client behind TCP that does not take what it is sent";
        XdpJunk = "xdp_junk", "datagram for the media port that the XDP program dropped: of no protocol that media uses (RFC 7983)";
        XdpFlood = "xdp_flood", "datagram that the XDP program dropped during a flood: from a source that is no client";
        XdpRingFull = "xdp_ring_full", "datagram for which a worker's AF_XDP socket had no room";
        TapFull = "tap_full", "packet that a recorder does not get: the ring to it is full";
        TurnFull = "turn_full", "more media in one turn than a worker forwards";
    }
}

declare! {
    /// Counters of a worker. Exported as `distributary_{label}_total`.
    Counter {
        DatagramsReceived = "received_datagrams", "Datagrams received.";
        BytesReceived = "received_bytes", "Bytes of UDP payload received.";
        DatagramsSent = "sent_datagrams", "Datagrams sent.";
        BytesSent = "sent_bytes", "Bytes of UDP payload sent.";
        XdpReceived = "xdp_received_datagrams", "Datagrams received by AF_XDP, of all received.";
        XdpSent = "xdp_sent_datagrams", "Datagrams sent by AF_XDP, of all sent.";
        XdpPassed = "xdp_passed_datagrams", "Datagrams for the media port that the XDP program left to the ordinary sockets.";
        SendOperations = "send_operations", "Send operations; a train of equal-sized datagrams is one.";
        MediaReceived = "received_media_packets", "RTP packets received, authenticated and accepted.";
        MediaForwarded = "forwarded_media_packets", "RTP packets forwarded, each receiver counted.";
        RtcpReceived = "received_rtcp_packets", "RTCP compound packets received and accepted.";
        StunRequests = "stun_requests", "Authenticated STUN binding requests answered.";
        SessionsClaimed = "claimed_sessions", "Sessions claimed by their first authenticated STUN check.";
        SessionsExpired = "expired_sessions", "Sessions ended because nothing authentic came from the client, checks for consent (RFC 7675) or media.";
        AddressChanges = "address_changes", "Changes of a live session's address after an authenticated check.";
        HandedOver = "handed_over_datagrams", "Datagrams handed to the worker that owns their session.";
        NacksReceived = "received_nacks", "Sequence numbers that receivers asked to have retransmitted.";
        Retransmitted = "retransmitted_packets", "Packets retransmitted to receivers.";
        FecSent = "sent_fec_packets", "Forward error correction packets sent to viewers on paths that lose.";
        PathFeedback = "path_feedback", "Messages of viewers about their paths that were taken: transport-wide feedback, congestion control feedback (RFC 8888), REMB.";
        Paced = "paced_packets", "Packets that waited for their turn on a viewer's path.";
        Runs = "cached_runs", "Viewers that began with a cached key frame and what came after it: none was asked for.";
        Probed = "probe_packets", "Packets sent to find out what a viewer's path carries: retransmissions of recent ones, or padding.";
        Filled = "fill_packets", "Packets of nothing sent to members for tracks that were silent from the start: silence, or padding.";
        NacksSent = "sent_nacks", "Sequence numbers asked of publishers.";
        Recovered = "recovered_packets", "Packets of publishers that were lost and came after all: by retransmission, along with later ones (RFC 2198), or by forward error correction (RFC 5109).";
        FecReceived = "received_fec_packets", "Forward error correction packets of publishers.";
        FecRecovered = "fec_recovered_packets", "Packets of publishers that were lost and computed from forward error correction packets, of all recovered.";
        LostUpstream = "lost_upstream_packets", "Packets of publishers given up as lost.";
        KeyFrameRequests = "key_frame_requests", "Key-frame requests sent to publishers.";
        KeyFrameRequestsReceived = "received_key_frame_requests", "Key-frame requests received from receivers.";
        EventsLost = "lost_events", "Statistics events dropped because the slow path was behind.";
        MeshSent = "mesh_items", "Items sent to other workers.";
        Tapped = "tapped_items", "Packets and sender reports handed to the recorder.";
        RecordedFrames = "recorded_frames", "Frames of video and packets of sound written to recordings.";
        RecordedBytes = "recorded_bytes", "Bytes written to recordings.";
        RecordingGaps = "recording_gaps", "Places in recordings where packets never came.";
        Recordings = "recordings", "Recorded files begun.";
        RecordingsFailed = "failed_recordings", "Recordings that ended because their file could not be made or written.";
        DataReceived = "received_data_messages", "Messages received on data channels.";
        DataBytesReceived = "received_data_bytes", "Bytes of those messages.";
        DataSent = "sent_data_messages", "Messages sent on data channels, each receiver counted.";
        DataBytesSent = "sent_data_bytes", "Bytes of those messages.";
        Uploads = "uploaded_recordings", "Recordings that the store has confirmed.";
        UploadedBytes = "uploaded_bytes", "Bytes of recordings sent to the store and accepted.";
        UploadsFailed = "failed_uploads", "Tries to upload a recording that failed; each is tried again.";
        TcpConnections = "tcp_connections", "ICE-TCP connections that began with a check.";
        Wakeups = "wakeups", "Times this worker had to be woken by another thread.";
        Turns = "turns", "Turns of the worker loop.";
    }
}

/// The counters of one worker. One cache line apart from its neighbours.
#[repr(align(128))]
pub struct WorkerMetrics {
    drops: [AtomicU64; DropReason::ALL.len()],
    counters: [AtomicU64; Counter::ALL.len()],
    /// Share of its core that the worker uses, in 1/1000.
    busy: AtomicU64,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        WorkerMetrics {
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            busy: AtomicU64::new(0),
        }
    }
}

impl WorkerMetrics {
    /// Counts a drop. Only the owning worker calls this.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    pub fn count_drops(&self, reason: DropReason, count: u64) {
        let cell = &self.drops[reason as usize];
        cell.store(cell.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Adds to a counter. Only the owning worker calls this.
    pub fn add(&self, counter: Counter, count: u64) {
        let cell = &self.counters[counter as usize];
        cell.store(cell.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Publishes the share of its core that the worker uses, in 1/1000. Only the owning worker calls this.
    pub fn set_busy(&self, share: u64) {
        self.busy.store(share, Ordering::Relaxed);
    }

    pub fn busy(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}
