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
pub const SEND_ARENA_BYTES: usize = 1 << 20;
/// Send operations (single datagrams or trains) of one flush.
pub const SEND_OPS: usize = 1024;
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

/// Remote addresses a worker remembers per peer (ICE candidate pairs that passed a check). The oldest is forgotten.
pub const ADDRESSES_PER_PEER: usize = 4;
/// RTP streams received from one peer (3 simulcast layers × RTX × a few tracks). Further SSRCs are dropped (`ssrc_limit`).
pub const STREAMS_PER_PEER: usize = 24;
/// Header extensions of one packet that are looked at; further elements are ignored.
pub const EXTENSIONS_PER_PACKET: usize = 10;
/// Packets of one track kept for retransmission on each worker with a subscriber, for at most 1.5 s. A NACK for an older one
/// is ignored (`nack_too_old`).
pub const TRACK_CACHE: usize = 1024;
/// Tracks one session can watch or publish at a time; further m-lines are refused.
pub const MEDIA_PER_PEER: usize = MEDIA_SECTIONS_MAX;
/// Subscriptions of one worker. Further ones are refused (`subscription_limit`).
pub const SUBSCRIPTIONS: usize = 4 * SESSIONS_MAX;
/// Retransmissions one RTCP packet may ask for; the rest is ignored and asked again.
pub const NACKS_PER_PACKET: usize = 128;
/// Missing packets followed for one received stream. On overflow the oldest are given up and a key frame is asked for.
pub const NACK_PENDING: usize = 256;
/// Times one missing packet is asked for.
pub const NACK_TRIES: u8 = 8;
/// Packets reported in one transport-wide feedback message.
pub const TWCC_PACKETS: usize = 400;

/// Threads of DTLS handshakes.
pub const HANDSHAKE_THREADS_MAX: usize = 16;
/// DTLS handshakes in flight on one thread: in all, and from one source address. Further datagrams are dropped (`dtls_limit`).
pub const HANDSHAKES_MAX: usize = 4096;
pub const HANDSHAKES_PER_SOURCE: usize = 1024;
/// Milliseconds a DTLS handshake may take.
pub const HANDSHAKE_MILLIS_MAX: u64 = 20_000;
/// Milliseconds without an authentic packet of the client after which a session ends (RFC 7675 §5.1).
pub const CONSENT_MILLIS_MAX: u64 = 30_000;
/// Milliseconds between two key-frame requests for the same stream.
pub const KEY_FRAME_REQUEST_MILLIS_MIN: u64 = 500;

/// HTTP connections open at a time; further ones are closed at once.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Bytes of an SDP accepted over HTTP; a larger body gets 413.
pub const SDP_BYTES_MAX: usize = 64 * 1024;
/// m-lines in an offer; more get 400.
pub const MEDIA_SECTIONS_MAX: usize = 32;
/// Candidates read from one offer or fragment; further ones are ignored (an ICE-lite agent does not need them).
pub const CANDIDATES_MAX: usize = 64;
/// Characters of a room name.
pub const ROOM_NAME_CHARS_MAX: usize = 128;

const _: () = assert!(HEADROOM_BYTES + DATAGRAM_BYTES_MAX <= SLOT_BYTES);
const _: () = assert!(RECV_BUFFERS.is_power_of_two() && RECV_BUFFERS < ARENA_SLOTS);
const _: () = assert!(TRAIN_BYTES <= u16::MAX as usize && TRAIN_BYTES <= SEND_ARENA_BYTES);
const _: () = assert!(TRACK_CACHE.is_power_of_two());
const _: () = assert!(TRACK_CACHE < ARENA_SLOTS);
const _: () = assert!(WORKERS_MAX <= 64);
const _: () = assert!(XDP_RING.is_power_of_two() && XDP_SEND_FRAMES >= SEND_OPS && XDP_SEND_FRAMES >= XDP_RING);
const _: () = assert!(XDP_SEND_FRAMES + 2 * XDP_RING < ARENA_SLOTS / 2);
