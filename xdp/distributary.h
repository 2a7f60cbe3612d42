/* What the program in the kernel and the server agree on: sizes, keys, values, counters. `src/io/xdp/program.rs` has the same in
 * Rust, and a test there reads this file to see that it does. */
#pragma once

/* Receive queues of one interface that can have a socket each. */
#define QUEUES_MAX 64
/* Addresses of this host that media is taken for. */
#define ADDRESSES_MAX 256
/* Clients that a flood does not cut off. The least recently seen one gives way. */
#define KNOWN_MAX 131072
/* Largest UDP payload that goes to a worker this way; a larger one goes to its socket, which counts it. */
#define PAYLOAD_MAX 1600
/* During a flood: STUN messages of unknown sources let through on one CPU in one tick of 2^20 ns. */
#define STUN_PER_TICK 8

/* Indices of `counters`. */
#define COUNT_REDIRECTED 0   /* given to a worker */
#define COUNT_PASSED 1       /* for our port, but the kernel's: fragments, options, no socket on this queue */
#define COUNT_JUNK 2         /* dropped: first byte is none of STUN, DTLS, RTP or RTCP (RFC 7983) */
#define COUNT_FLOOD 3        /* dropped during a flood: unknown source */
#define COUNT_FLOOD_STUN 4   /* dropped during a flood: STUN of an unknown source above the rate */
#define COUNTERS 5

/* An IPv6 address, or an IPv4-mapped one (RFC 4291 section 2.5.5.2), in network byte order. */
struct address {
	unsigned int word[4];
};

/* A client. */
struct source {
	struct address address;
	unsigned short port; /* network byte order */
	unsigned short zero;
};

/* The one entry of `settings`. */
struct settings {
	unsigned short port; /* of media, network byte order */
	unsigned short flood; /* not 0: a flood is on */
};
