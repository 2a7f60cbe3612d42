// SPDX-License-Identifier: Apache-2.0
/*
 * Takes media off an interface before the kernel's network stack spends anything on it.
 *
 *   Ethernet, up to two VLAN tags, IPv4 or IPv6, UDP to our port and to an address of this host
 *     ├─ first byte of no protocol that media uses (RFC 7983) ──► counted, dropped
 *     ├─ a flood is on, and the source is no client of ours ────► counted, dropped; some STUN passes, so that clients can come
 *     ├─ a worker's AF_XDP socket on this queue ────────────────► there
 *     └─ none, or a fragment, or IP options ────────────────────► the kernel, that is: the worker's ordinary socket
 *   anything else ──────────────────────────────────────────────► the kernel
 *
 * Without any header of the system, so that clang alone builds it. UDP checksums are not looked at: everything that is
 * accepted in the end carries an authentication tag, and a local sender's checksum may not have been computed yet.
 */
#include "distributary.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* ---- the kernel's interface (linux/bpf.h) ---- */

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

enum { XDP_DROP = 1, XDP_PASS = 2 };
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_XSKMAP = 17,
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const ktime_get_ns)(void) = (void *)5;
static long (*const redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, type) type *name
/* Both targets there are, bpfel and bpfeb, byte-swap the same way at compile time. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BE16(value) ((u16)__builtin_bswap16(value))
#define BE32(value) ((u32)__builtin_bswap32(value))
#else
#define BE16(value) ((u16)(value))
#define BE32(value) ((u32)(value))
#endif

/* ---- maps ---- */

/* Receive queue → AF_XDP socket. */
struct {
	NUMBER(type, BPF_MAP_TYPE_XSKMAP);
	NUMBER(max_entries, QUEUES_MAX);
	TYPE(key, u32);
	TYPE(value, u32);
} sockets SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct settings);
} settings SECTION(".maps");

/* The addresses of this host: what is for others is only passing through, whatever its port. */
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, ADDRESSES_MAX);
	TYPE(key, struct address);
	TYPE(value, u8);
} addresses SECTION(".maps");

/* Clients that the server has sent something to, which it does only after an authentic STUN check. */
struct {
	NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	NUMBER(max_entries, KNOWN_MAX);
	TYPE(key, struct source);
	TYPE(value, u8);
} known SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, COUNTERS);
	TYPE(key, u32);
	TYPE(value, u64);
} counters SECTION(".maps");

/* STUN messages of unknown sources: the tick, and how many in it. */
struct bucket {
	u64 tick;
	u64 count;
};
struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct bucket);
} stun SECTION(".maps");

/* ---- headers ---- */

struct ethernet {
	u8 destination[6];
	u8 source[6];
	u16 type;
} __attribute__((packed));

struct vlan {
	u16 tag;
	u16 type;
};

struct ipv4 {
	u8 version_words;
	u8 service;
	u16 length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
};

struct ipv6 {
	u32 version;
	u16 length;
	u8 next;
	u8 hops;
	struct address source;
	struct address destination;
};

struct udp {
	u16 source;
	u16 destination;
	u16 length;
	u16 checksum;
};

enum { UDP = 17 };

INLINE int verdict(u32 counter, int action)
{
	u64 *count = map_lookup(&counters, &counter);

	if (count)
		*count += 1;
	return action;
}

/* First byte of a datagram (RFC 7983 section 7, without ZRTP and TURN channels, which nobody sends here). */
INLINE int is_stun(u8 first)
{
	return first < 4;
}

INLINE int is_media(u8 first)
{
	return first < 4 || (first >= 20 && first < 64) || (first >= 128 && first < 192);
}

/* A STUN message of an unknown source: is there room for it in this tick? */
INLINE int stun_admitted(void)
{
	u32 zero = 0;
	struct bucket *bucket = map_lookup(&stun, &zero);
	u64 tick = ktime_get_ns() >> 20;

	if (!bucket)
		return 0;
	if (bucket->tick != tick) {
		bucket->tick = tick;
		bucket->count = 0;
	}
	bucket->count += 1;
	return bucket->count <= STUN_PER_TICK;
}

SECTION("xdp")
int distributary(struct xdp_md *frame)
{
	u8 *at = (u8 *)(long)frame->data;
	u8 *end = (u8 *)(long)frame->data_end;
	u32 zero = 0;
	u32 queue = frame->rx_queue_index;
	struct address destination = {};
	struct source source = {};
	struct settings *set = map_lookup(&settings, &zero);
	struct ethernet *ethernet = (void *)at;

	if (!set || (u8 *)(ethernet + 1) > end)
		return XDP_PASS;
	u16 type = ethernet->type;

	at = (u8 *)(ethernet + 1);
#pragma unroll
	for (int tags = 0; tags < 2; tags++) {
		struct vlan *vlan = (void *)at;

		if (type != BE16(0x8100) && type != BE16(0x88a8))
			break;
		if ((u8 *)(vlan + 1) > end)
			return XDP_PASS;
		type = vlan->type;
		at = (u8 *)(vlan + 1);
	}
	if (type == BE16(0x0800)) {
		struct ipv4 *ip = (void *)at;

		if ((u8 *)(ip + 1) > end || ip->protocol != UDP)
			return XDP_PASS;
		/* Options, or a fragment (RFC 791): the port is not where it is looked for, or not there. */
		if (ip->version_words != 0x45 || ip->fragment & BE16(0x3fff))
			return XDP_PASS;
		source.address.word[2] = destination.word[2] = BE32(0xffff);
		source.address.word[3] = ip->source;
		destination.word[3] = ip->destination;
		at = (u8 *)(ip + 1);
	} else if (type == BE16(0x86dd)) {
		struct ipv6 *ip = (void *)at;

		/* Extension headers, fragments among them, are left to the kernel. */
		if ((u8 *)(ip + 1) > end || ip->next != UDP)
			return XDP_PASS;
		source.address = ip->source;
		destination = ip->destination;
		at = (u8 *)(ip + 1);
	} else {
		return XDP_PASS;
	}

	struct udp *udp = (void *)at;
	u8 *first = (u8 *)(udp + 1);

	if ((u8 *)(udp + 1) > end || udp->destination != set->port)
		return XDP_PASS;
	if (!map_lookup(&addresses, &destination))
		return XDP_PASS;
	u16 length = BE16(udp->length);
	/* Empty, or larger than a worker takes: its socket counts such ones. */
	if (first + 1 > end || length <= sizeof(*udp) || length > sizeof(*udp) + PAYLOAD_MAX)
		return verdict(COUNT_PASSED, XDP_PASS);
	if (!is_media(*first))
		return verdict(COUNT_JUNK, XDP_DROP);
	if (set->flood) {
		source.port = udp->source;
		if (!map_lookup(&known, &source)) {
			if (!is_stun(*first))
				return verdict(COUNT_FLOOD, XDP_DROP);
			if (!stun_admitted())
				return verdict(COUNT_FLOOD_STUN, XDP_DROP);
		}
	}
	if (!map_lookup(&sockets, &queue))
		return verdict(COUNT_PASSED, XDP_PASS);
	verdict(COUNT_REDIRECTED, 0);
	return redirect_map(&sockets, queue, XDP_PASS);
}

char terms[] SECTION("license") = "Apache-2.0";
