//! Every capacity of the server in one place. A limit is a promise: each has a counted, documented behaviour when it is
//! reached (the comment says which), and the assertions at the end keep them consistent with each other.

/// Bytes of a cache line, for the layouts that are asserted: what a packet touches of each receiver.
pub const CACHE_LINE_BYTES: usize = 64;

/// Bytes of one arena slot: one received datagram with its kernel header. Larger datagrams are dropped (`oversize`).
pub const SLOT_BYTES: usize = 2048;
/// Bytes at the start of a slot reserved for the receive backend (io_uring writes its header, the source address and
/// control data there) and for headers that a later stage prepends.
pub const HEADROOM_BYTES: usize = 128;
/// Largest datagram accepted from the network.
pub const DATAGRAM_BYTES_MAX: usize = 1600;
/// Slots in one worker's receive arena. When none is free, datagrams wait in the socket buffer (`arena_exhausted`).
pub const ARENA_SLOTS: usize = 64 * 1024;
/// Receive buffers handed to the kernel at a time.
pub const RECV_BUFFERS: usize = 1024;
/// Datagrams handled in one turn.
pub const TURN_DATAGRAMS: usize = 256;
/// Media packets forwarded in one turn (received here or on another worker).
pub const TURN_MEDIA: usize = 512;
/// Bytes of one worker's send arena: what one flush can hold. A full arena is flushed and reused within the turn.
pub const SEND_ARENA_BYTES: usize = 1 << 18;
/// Send operations (single datagrams or trains) of one flush.
pub const SEND_OPS: usize = 128;
/// Segments of one UDP_SEGMENT train: the kernel's UDP_MAX_SEGMENTS is 64 in older kernels.
pub const TRAIN_SEGMENTS: usize = 64;
/// Bytes of one train: what fits an IPv4/IPv6 datagram's 16-bit length.
pub const TRAIN_BYTES: usize = 65_000;

/// AF_XDP: descriptors of each ring of each socket, and so frames that wait to be received or sent on one queue. Frames that
/// find the receive ring full are dropped (`xdp_ring_full`).
pub const XDP_RING: usize = 2048;
/// AF_XDP: frames of one worker to send from, in a batch or with the kernel. When none is free, datagrams are dropped
/// (`send_failed`).
pub const XDP_SEND_FRAMES: usize = 4096;
/// AF_XDP: remote addresses of which one worker knows the headers. A full table is emptied and fills again from what is sent;
/// what is not in it goes by the ordinary socket.
pub const XDP_PEERS: usize = 64 * 1024;
/// AF_XDP: questions for headers that one worker may have open. Further ones are put off; meanwhile the ordinary socket sends.
pub const XDP_QUESTIONS: usize = 1024;
/// AF_XDP: receive queues of an interface that are used; the program leaves further ones to the ordinary sockets.
pub const XDP_QUEUES: usize = 64;
/// AF_XDP: addresses of this host for which the program takes media; what comes for further ones goes to the ordinary sockets.
pub const XDP_ADDRESSES: usize = 256;

/// RTP padding that a packet may get so that it is as long as the others of its train.
pub const PADDING_MAX: u16 = 16;

/// Worker threads. Sets of workers are 64-bit masks.
pub const WORKERS_MAX: usize = 64;
/// Sessions of a whole server; further joins get 503. Configurable below this.
pub const SESSIONS_MAX: usize = 32 * 1024;
/// Tracks published at a time on a whole server; further publishers get 503.
pub const TRACKS_MAX: usize = 16 * 1024;
/// Sessions of one room unless the config says otherwise; further joins get 503.
pub const ROOM_SESSIONS_MAX: usize = 16 * 1024;

/// Commands waiting for one worker, from one thread. The sender keeps what does not fit and tries again.
pub const COMMANDS: usize = 4096;
/// Events waiting from one worker to one slow-path thread. A full ring drops statistics first, then counts `events_lost`.
pub const EVENTS: usize = 8192;
/// Items waiting from one worker to one other. A full ring drops media (`mesh_full`).
pub const MESH: usize = 4096;
/// Packets on their way from a worker to whoever reads its tap: about a second of 100 Mb/s.
pub const TAP: usize = 8192;
/// Packets that a recorder keeps of one stream while it waits for a lost one.
pub const REORDER_PACKETS: usize = 1024;
/// Bytes of a recorded frame; a larger one counts as lost.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Remote addresses a worker remembers per peer (ICE candidate pairs that passed a check). The oldest is forgotten.
pub const ADDRESSES_PER_PEER: usize = 4;
/// RTP streams received from one peer (3 simulcast layers × RTX × a few tracks). Further SSRCs are dropped (`ssrc_limit`).
pub const STREAMS_PER_PEER: usize = 24;
/// Qualities of one track: simulcast encodings of an m-line, or spatial layers of a stream. Further encodings are not agreed on,
/// higher spatial layers not forwarded.
pub const QUALITIES_MAX: usize = 4;
/// Temporal layers of one quality; higher ones are not forwarded.
pub const TEMPORAL_LAYERS_MAX: usize = 4;
/// Pixels of a side of the place where a viewer shows a picture: twice the 8192 of the largest screens.
pub const SIDE_MAX: u32 = 16_384;
/// Header extensions of one packet that are looked at; further elements are ignored.
pub const EXTENSIONS_PER_PACKET: usize = 10;
/// Packets of one track kept for retransmission on each worker with a subscriber, for at most 1.5 s. A NACK for an older one
/// is ignored (`nack_too_old`).
pub const TRACK_CACHE: usize = 1024;
/// A cached run, a key frame and what came after it, with which a viewer begins: milliseconds since the key frame came, and bytes of
/// payload. Where it is more, a key frame is asked for.
pub const RUN_MILLIS_MAX: u64 = 1_000;
pub const RUN_BYTES_MAX: usize = 512 * 1024;
/// Packets of runs that one worker gives in 10 ms: about a millisecond's work. For whoever comes then a key frame is asked for, one
/// for all.
pub const RUN_PACKETS: usize = 1024;
/// Tracks one session can watch or publish at a time; further m-lines are refused.
pub const MEDIA_PER_PEER: usize = 64;
/// Rooms that are recorded because somebody asked for it; further ones are refused.
pub const ROOMS_RECORDED_MAX: usize = 16 * 1024;
/// Bytes of recordings that wait for the disk, some seconds of many, and the writes that they are in; then the recorder waits too.
pub const DISK_WAITING_BYTES: usize = 256 * 1024 * 1024;
pub const DISK_WAITING: usize = 16 * 1024;
/// Tracks of one file that a room's publishers share; those of further publishers go into another beside it. (Both containers number them
/// in a byte here.) Beside them a file takes those that have just left, up to so many in all.
pub const ROOM_FILE_TRACKS_MAX: usize = 100;
pub const FILE_TRACKS_MAX: usize = 126;
/// Events beside a recording in a second; further ones are counted there (`omitted`).
pub const EVENTS_PER_SECOND: u32 = 100;
/// Of those who are in the room when a file begins, so many are named beside it, and how many more there are; and of those who speak at a
/// time the loudest.
pub const PRESENT_TOLD: usize = 256;
pub const SPEAKERS_TOLD: usize = 8;
/// Recordings in one answer of the API, the newest.
pub const RECORDINGS_LISTED: usize = 1_000;
/// Recordings that are uploaded at a time, and of which it is known at a time that they wait; the folder knows all.
pub const UPLOADS_MAX: usize = 16;
pub const UPLOADS_WAITING: usize = 1_024;
/// Bytes of a part of an upload, of which one object has 10,000 at most: those of larger files are larger.
pub const UPLOAD_PART_BYTES: u64 = 8 << 20;
pub const UPLOAD_PARTS_MAX: u64 = 10_000;
/// Subscriptions of one worker. Further ones are refused (`subscription_limit`).
pub const SUBSCRIPTIONS: usize = 4 * SESSIONS_MAX;
/// Retransmissions one RTCP packet may ask for; the rest is ignored and asked again.
pub const NACKS_PER_PACKET: usize = 128;
/// Missing packets followed for one received stream. On overflow the oldest are given up and a key frame is asked for.
pub const NACK_PENDING: usize = 256;
/// Times one missing packet is asked for.
pub const NACK_TRIES: u8 = 8;
/// Tracks of sound in one room that are compared with each other; of more, silent ones are left out.
pub const SPEAKERS_MAX: usize = 1024;
/// Microphones, and cameras, that everybody in a room is sent where that is limited: with as many that were sent not long ago they fit a session.
pub const FLOOR_MAX: usize = MEDIA_PER_PEER / 2;
/// Earlier packets that one of sound carries along (RFC 2198).
pub const RED_BLOCKS: usize = 2;
/// Earlier packets that a publisher's may carry along: Chromium can be told to send nine. One with more is dropped (`red_malformed`).
pub const RED_BLOCKS_READ: usize = 9;
/// Bytes of a payload with redundant blocks; blocks that would make it longer are left out.
pub const RED_BYTES_MAX: usize = 1100;
/// Runs of FEC packets (RFC 5109) in one stream of which it is remembered where they stand: more than in the time for which packets are
/// kept. A number before them leads nowhere (`nack_too_old`, `too_late`).
pub const FEC_PLACES: usize = 96;
/// Bytes after the fixed header of a packet that FEC protects; longer ones are sent without, since the FEC packet is longer still.
pub const FEC_BYTES_MAX: usize = 1224;
/// Of a publisher's stream with FEC packets: packets kept to compute lost ones from (more than two groups of the 48 that one FEC packet
/// can name), and FEC packets that wait for more of those they name. The oldest give way.
pub const FEC_WINDOW: usize = 128;
pub const FEC_WAITING: usize = 8;
/// Lost packets that one received packet can bring along, computed or repeated; what is beyond is asked for again.
pub const RECOVERED_MAX: usize = 16;
/// Packets reported in one transport-wide feedback message.
pub const TWCC_PACKETS: usize = 400;

/// Dependency descriptors: frame templates of one structure (their ids have 6 bits) and decode targets (counted in 5 bits). The
/// format has no room for more.
pub const FRAME_TEMPLATES: usize = 64;
pub const DECODE_TARGETS: usize = 32;
/// Dependency descriptors: chains of one structure (one a spatial layer is usual), and frames that one frame may refer to (AV1 has
/// seven references). A descriptor with more is not read (`dependency_malformed`).
pub const DEPENDENCY_CHAINS: usize = 8;
pub const FRAME_DEPENDENCIES: usize = 8;
/// Packets sent over one path of which it is remembered when they left: more than leave in the time until feedback comes. What is told
/// of older ones is ignored.
pub const PATH_HISTORY: usize = 512;
/// SSRCs of one viewer's media and retransmissions that feedback by stream (RFC 8888) is taken about; what is told of further ones is
/// ignored.
pub const PATH_STREAMS: usize = 64;
/// Feedback messages that one path takes in a second: clients send 4 to 40. Further ones are dropped (`feedback_flood`).
pub const PATH_FEEDBACK: u32 = 64;
/// Packets that wait on one worker for their turn on their path, of all viewers and of one. When there is no room, what a viewer has
/// waiting is dropped, and it goes on with a key frame (`pacer_full`).
pub const PACED_PACKETS: usize = 8192;
pub const PACED_PER_PEER: usize = 1024;

/// Subscriptions of one worker that wait for a first packet and are sent some of nothing meanwhile; further ones just wait.
pub const FILLS_MAX: usize = 16 * 1024;

/// Threads of DTLS handshakes.
pub const HANDSHAKE_THREADS_MAX: usize = 16;
/// DTLS handshakes in flight on one thread: in all, and from one source address. Further datagrams are dropped (`dtls_limit`).
pub const HANDSHAKES_MAX: usize = 4096;
pub const HANDSHAKES_PER_SOURCE: usize = 1024;
/// Milliseconds a DTLS handshake may take.
pub const HANDSHAKE_MILLIS_MAX: u64 = 20_000;
/// Data channels of one session. Further ones are not acknowledged, and messages on them are dropped (`data_unknown_channel`).
pub const CHANNELS_PER_PEER: usize = 32;
/// Bytes of a data channel's label, and of its protocol's name; a channel with longer ones counts as one too many.
pub const CHANNEL_NAME_BYTES_MAX: usize = 256;
/// What waits to be sent on one session's data channels. Of an unreliable channel with more bytes the oldest messages are dropped
/// (`data_full`); if the reliable ones together have more, the receiver is too slow for what it was promised, and loses its channels
/// (`data_slow_receiver`).
pub const DATA_WAITING_BYTES: usize = 1 << 20;
pub const DATA_WAITING_UNRELIABLE_BYTES: usize = 128 * 1024;
/// Of what is promised to a session before it has opened the channel for it, this much is kept; the rest is dropped (`data_unknown_channel`).
pub const DATA_EARLY_BYTES: usize = 128 * 1024;
/// What a waiting message is counted for beside its bytes.
pub const DATA_MESSAGE_COST: usize = 128;
/// Of what is to be sent, this much at a time is with SCTP, on its way or about to be: bytes, 10 Mb/s at a
/// round trip of 100 ms, and messages.
pub const SCTP_SEND_BYTES: usize = 128 * 1024;
pub const SCTP_SEND_MESSAGES: usize = 512;
/// What SCTP keeps of a peer's messages until they are whole and in order: the window it is told.
pub const SCTP_RECEIVE_BYTES: usize = 256 * 1024;
/// Chunks beyond the first missing one; further ones are dropped (`sctp_flood`). All of their gaps fit one SACK.
pub const SCTP_TSN_WINDOW: usize = 512;
/// SCTP streams in each direction. DATA on higher ones is dropped (`sctp_malformed`).
pub const SCTP_STREAMS: usize = 1024;
/// Fragments of one message, and bytes that SCTP may keep though they are no part of a message that is coming in. A peer that makes more of
/// them is no WebRTC client, and loses its channels (`sctp_malformed`).
pub const SCTP_FRAGMENTS_MAX: usize = 1024;
pub const SCTP_HELD_UNEXPLAINED: usize = 1024;
/// DATA chunks from one session in a second; further ones are dropped as by a network (`sctp_flood`).
pub const SCTP_CHUNKS_PER_SECOND: u64 = 5_000;

/// Milliseconds without an authentic packet of the client after which a session ends (RFC 7675 §5.1).
pub const CONSENT_MILLIS_MAX: u64 = 30_000;
/// Milliseconds between two key-frame requests for the same stream.
pub const KEY_FRAME_REQUEST_MILLIS_MIN: u64 = 500;
/// Milliseconds after a request in which libwebrtc's encoder takes no further one, for no stream of it (its `EncoderRtcpFeedback`).
pub const KEY_FRAME_DEAF_MILLIS: u64 = 300;

/// Egresses that are known at a time; when all are active, another is refused.
pub const EGRESSES_MAX: usize = 1_000;
/// Bytes of a message to one of LiveKit's services; a larger one is refused.
pub const TWIRP_BYTES_MAX: usize = 256 * 1024;
/// Addresses that webhooks go to, and events that wait for one of them; further ones are given up (`lost_webhooks`).
pub const WEBHOOK_ADDRESSES_MAX: usize = 64;
pub const WEBHOOKS_WAITING: usize = 1_024;
/// ICE over TCP: connections at a time, in all and from one source address. Further ones are closed at once (`tcp_limit`).
pub const TCP_CONNECTIONS_MAX: usize = 4096;
pub const TCP_CONNECTIONS_PER_SOURCE: usize = 128;
/// ICE over TCP: packets that wait for one client, beside the kernel's send buffer, which is asked to be of this size. Further ones are
/// dropped (`tcp_slow_reader`).
pub const TCP_WAITING_FRAMES: usize = 256;
pub const TCP_SEND_BUFFER_BYTES: usize = 96 * 1024;

/// HTTP connections open at a time; further ones are closed at once.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Bytes of an SDP accepted over HTTP; a larger body gets 413. A member's may be as long as its message.
pub const SDP_BYTES_MAX: usize = 64 * 1024;
/// m-lines in an offer; more get 400. A member's has one for each track that it publishes or watches.
pub const MEDIA_SECTIONS_MAX: usize = 128;
/// Candidates read from one offer or fragment; further ones are ignored (an ICE-lite agent does not need them).
pub const CANDIDATES_MAX: usize = 64;
/// Bytes of one message of a data channel, in either direction; a client that sends a longer one loses its data channels.
pub const DATA_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Data tracks that a member publishes, and that it is subscribed to.
pub const DATA_TRACKS_MAX: usize = 64;
pub const DATA_SUBSCRIPTIONS_MAX: usize = 512;
/// Bytes of what is told of a member or a room: a name, metadata, all attributes together. More is refused.
pub const NAME_BYTES_MAX: usize = 256;
pub const METADATA_BYTES_MAX: usize = 64 * 1024;
pub const ATTRIBUTES_BYTES_MAX: usize = 64 * 1024;
/// Addresses whose joins of one minute are counted; those of further ones are not.
pub const JOIN_SOURCES_MAX: usize = 64 * 1024;
/// Bytes of what a member says of a track that it is about to publish; a longer description is refused.
pub const TRACK_BYTES_MAX: usize = 16 * 1024;
/// Members that one can name who may watch its tracks; further ones may not.
pub const MEMBERS_NAMED_MAX: usize = 4096;
/// Messages on their way to a member's client. One that does not read them is taken out of its room.
pub const MEMBER_MESSAGES: usize = 1024;
/// Bytes of a message of a member's client, and of what it joins with; a longer one ends its connection.
pub const SIGNAL_BYTES_MAX: usize = 512 * 1024;
/// Characters of a room name.
pub const ROOM_NAME_CHARS_MAX: usize = 128;

const _: () = assert!(MEDIA_PER_PEER < MEDIA_SECTIONS_MAX && SDP_BYTES_MAX <= SIGNAL_BYTES_MAX);
const _: () = assert!(HEADROOM_BYTES + DATAGRAM_BYTES_MAX <= SLOT_BYTES);
const _: () = assert!(RECV_BUFFERS.is_power_of_two() && RECV_BUFFERS < ARENA_SLOTS);
const _: () = assert!(TRAIN_BYTES <= u16::MAX as usize && TRAIN_BYTES <= SEND_ARENA_BYTES);
const _: () = assert!(TRACK_CACHE.is_power_of_two());
const _: () = assert!(TRACK_CACHE < ARENA_SLOTS && TRACK_CACHE <= RUN_PACKETS);
const _: () = assert!(PATH_HISTORY.is_power_of_two());
const _: () = assert!(FEC_WINDOW.is_power_of_two() && RED_BLOCKS_READ <= RECOVERED_MAX);
const _: () = assert!(PACED_PACKETS + TRACK_CACHE < ARENA_SLOTS && PACED_PER_PEER <= PACED_PACKETS);
const _: () = assert!(TAP + PACED_PACKETS + RECV_BUFFERS < ARENA_SLOTS / 2);
const _: () = assert!(WORKERS_MAX <= 64);
const _: () = assert!(MEDIA_PER_PEER <= ROOM_FILE_TRACKS_MAX && ROOM_FILE_TRACKS_MAX < FILE_TRACKS_MAX && FILE_TRACKS_MAX < 127);
// A gap at every other chunk: four bytes each in a SACK, beside its headers, in one DTLS record.
const _: () = assert!(SCTP_TSN_WINDOW / 2 * 4 + 28 <= 1163);
const _: () = assert!(DATA_MESSAGE_BYTES_MAX < SCTP_SEND_BYTES && DATA_MESSAGE_BYTES_MAX < DATA_WAITING_UNRELIABLE_BYTES);
const _: () = assert!(DATA_MESSAGE_BYTES_MAX < SCTP_RECEIVE_BYTES && DATA_MESSAGE_BYTES_MAX / SCTP_FRAGMENTS_MAX <= 64);
const _: () = assert!(XDP_RING.is_power_of_two() && XDP_SEND_FRAMES >= SEND_OPS && XDP_SEND_FRAMES >= XDP_RING);
const _: () = assert!(XDP_SEND_FRAMES + 2 * XDP_RING < ARENA_SLOTS / 2);
