/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The outer header that carries a packet to its backend, byte for byte that of `src/packet/encap`, and the way
 * out.
 */
#ifndef TUNLB_ENCAP_H
#define TUNLB_ENCAP_H

#include "flows.h"

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

/* The first of the 16384 dynamic ports (RFC 6335 §6). */
#define FIRST_DYNAMIC_PORT 0xc000

/* How long a next hop is not looked for again: 0.5 s. */
#define HOP_TICKS 8

/* RFC 791 §3.2 and RFC 8200 §5: `smallest_mtu` of `src/director/room.rs`. */
#define SMALLEST_V4 68
#define SMALLEST_V6 1280

/* A copy of a lane that nobody writes. */
struct tunnel {
	__u16 mtu;
	__u16 constant;
	__u8 shape;
	__u8 entropy_bits;
	__u32 header[LONGEST_HEADER / 4];
};

static __always_inline __u32 overhead_of(__u8 shape)
{
	switch (shape) {
	case IPV4:
		return 20;
	case IPV4_UDP:
		return 28;
	case IPV6:
		return 40;
	default:
		return 48;
	}
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Of this CPU, which has a sequence of its own. Never 0: `src/director/identification.rs`. */
static __always_inline __u16 identification(const struct settings *settings)
{
	__u32 row = 0, taken;
	__u32 *next = bpf_map_lookup_elem(&identifications, &row);

	if (!next)
		return 0;
	taken = *next;
	if (!taken)
		taken = settings->first_identification + bpf_get_smp_processor_id();
	taken &= 0xffff;
	if (!taken)
		taken = settings->identification_stride & 0xffff;
	*next = taken + settings->identification_stride;
	return taken;
}

static __always_inline void write_v4(const struct settings *settings, struct iphdr *ip,
				     const struct tunnel *tunnel, const struct packet *p,
				     __u64 hash, __u32 payload, __u8 protocol)
{
	__be16 total = bpf_htons(payload + sizeof(*ip));
	__be16 id = p->dont_fragment ? 0 : bpf_htons(identification(settings));
	__be16 fragment = p->dont_fragment ? bpf_htons(DONT_FRAGMENT) : 0;
	__be32 source = bpf_htonl((__u32)hash & (__u32)((1ULL << (tunnel->entropy_bits & 63)) - 1));

	ip->tos = p->traffic_class;
	ip->tot_len = total;
	ip->id = id;
	ip->frag_off = fragment;
	ip->protocol = protocol;
	ip->saddr |= source;
	/* The words as they are in memory: the sum of swapped words is the swapped sum (RFC 1071 §2). */
	ip->check = ~fold((__u64)tunnel->constant + bpf_htons(p->traffic_class) + total + id + fragment +
			  bpf_htons(protocol) + source);
}

static __always_inline void write_v6(struct ipv6hdr *ip, const struct tunnel *tunnel,
				     const struct packet *p, __u64 hash, __u32 payload,
				     __u8 protocol)
{
	__u64 bits = hash;

	ip->priority = p->traffic_class >> 4;
	ip->flow_lbl[0] = p->traffic_class << 4;
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = protocol;
	if (!tunnel->entropy_bits)
		return;
	if (tunnel->entropy_bits < 64)
		bits &= (1ULL << (tunnel->entropy_bits & 63)) - 1;
	ip->saddr.in6_u.u6_addr32[3] |= bpf_htonl((__u32)bits);
	ip->saddr.in6_u.u6_addr32[2] |= bpf_htonl(bits >> 32);
}

static __always_inline void write_udp(struct udphdr *udp, __u64 hash, __u32 length)
{
	udp->source = bpf_htons(FIRST_DYNAMIC_PORT | (__u16)hash);
	udp->len = bpf_htons(length);
	udp->check = 0;
}

/* Bytes that the checksum over a packet adds in one step. */
#define STRIDE 64
/* Longer packets go to the kernel: RFC-sized jumbo frames. */
#define LONGEST_SUMMED (9216 + STRIDE)

/* Sets the checksum that IPv6 asks for (RFC 8200 §8.1) of the UDP header behind a link header without tags and an
 * IPv6 header; what it is over ends with the frame. Returns 0 where that is too long. A function of its own, so
 * that the verifier reads its loops once. */
__attribute__((noinline)) int sum_udp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 *address = (__u32 *)&ip->saddr;
	void *at = udp;
	__u64 sum;

	if ((void *)(udp + 1) > end)
		return 0;
	sum = udp->len + bpf_htons(IPPROTO_UDP);
	for (int i = 0; i < 8; i++)
		sum += address[i];
	for (int i = 0; i < LONGEST_SUMMED / STRIDE; i++) {
		__u32 *words = at;

		if (at + STRIDE > end)
			break;
		for (int word = 0; word < STRIDE / 4; word++)
			sum += words[word];
		at += STRIDE;
	}
	for (int i = 0; i < STRIDE / 4; i++) {
		if (at + 4 > end)
			break;
		sum += *(__u32 *)at;
		at += 4;
	}
	if (at + 2 <= end) {
		sum += *(__u16 *)at;
		at += 2;
	}
	if (at + 1 <= end) {
		sum += *(__u8 *)at;
		at += 1;
	}
	if (at + 1 <= end)
		return 0;
	sum = (__u16)~fold(sum);
	udp->check = sum ? sum : 0xffff; /* 0 would mean none (RFC 768) */
	return 1;
}

/* Copies whole words: the compiler does not know that any place in a packet will do. */
static __always_inline void copy_words(void *to, const void *from, __u32 bytes)
{
#pragma unroll
	for (__u32 at = 0; at < bytes / 4; at++)
		((__u32 *)to)[at] = ((const __u32 *)from)[at];
}

/* Writes the outer header at `at`. Returns 0, or a reason why not. */
static __always_inline int write_header(const struct settings *settings, void *at, void *end,
					const struct tunnel *tunnel, const struct packet *p,
					__u64 hash)
{
	__u8 carried = p->key.family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	__u32 udp_length = p->length + sizeof(struct udphdr);

	switch (tunnel->shape) {
	case IPV4:
		if (at + 20 > end)
			return DROP_SEND_FAILED;
		copy_words(at, tunnel->header, 20);
		write_v4(settings, at, tunnel, p, hash, p->length, carried);
		return 0;
	case IPV4_UDP:
		if (at + 28 > end)
			return DROP_SEND_FAILED;
		copy_words(at, tunnel->header, 28);
		write_udp(at + 20, hash, udp_length);
		write_v4(settings, at, tunnel, p, hash, udp_length, IPPROTO_UDP);
		return 0;
	case IPV6:
		if (at + 40 > end)
			return DROP_SEND_FAILED;
		copy_words(at, tunnel->header, 40);
		write_v6(at, tunnel, p, hash, p->length, carried);
		return 0;
	default:
		if (at + 48 > end)
			return DROP_SEND_FAILED;
		copy_words(at, tunnel->header, 48);
		write_udp(at + 40, hash, udp_length);
		write_v6(at, tunnel, p, hash, udp_length, IPPROTO_UDP);
		return 0; /* sum_udp() follows */
	}
}

/* Copies a lane, unless it is written meanwhile. Returns 0 or an outcome. */
static __always_inline int read_lane(struct tunnel *tunnel, const struct lane *lane)
{
	__u32 sequence = *(volatile __u32 *)&lane->sequence;

	barrier();
	if (!lane->usable)
		return NO_SOURCE;
	tunnel->mtu = lane->mtu;
	tunnel->constant = lane->constant;
	tunnel->shape = lane->shape;
	tunnel->entropy_bits = lane->entropy_bits;
	copy_words(tunnel->header, lane->header, LONGEST_HEADER);
	barrier();
	if (sequence & 1 || sequence != *(volatile __u32 *)&lane->sequence)
		return CHANGING;
	return 0;
}

/* Whether the packet fits the tunnel; `src/director/room.rs` says what becomes of one that does not. */
static __always_inline int fits(const struct tunnel *tunnel, const struct packet *p)
{
	__u32 overhead = overhead_of(tunnel->shape);
	__u32 smallest = p->key.family == 4 ? SMALLEST_V4 : SMALLEST_V6;
	__u32 room;

	if (p->length + overhead > 0xffff)
		return 0;
	if (tunnel->shape == IPV6_UDP && p->length > 9216)
		return 0;
	if (!tunnel->mtu)
		return 1;
	room = tunnel->mtu > overhead ? tunnel->mtu - overhead : 0;
	if (room < smallest)
		room = smallest;
	return p->length <= room;
}

/* Asks the kernel's tables. Returns 0 or an outcome. */
static __always_inline int look_up(struct xdp_md *ctx, struct hop *hop, const struct tunnel *tunnel)
{
	struct bpf_fib_lookup ask = {};
	long answer;

	ask.ifindex = ctx->ingress_ifindex;
	if (tunnel->shape == IPV4 || tunnel->shape == IPV4_UDP) {
		ask.family = AF_INET;
		ask.ipv4_src = tunnel->header[3];
		ask.ipv4_dst = tunnel->header[4];
	} else {
		ask.family = AF_INET6;
		__builtin_memcpy(ask.ipv6_src, tunnel->header + 2, 16);
		__builtin_memcpy(ask.ipv6_dst, tunnel->header + 6, 16);
	}
	answer = bpf_fib_lookup(ctx, &ask, sizeof(ask), 0);
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH)
		return NO_NEIGHBOUR;
	if (answer != BPF_FIB_LKUP_RET_SUCCESS)
		return NO_ROUTE;
	hop->port = ask.ifindex;
	hop->mtu = ask.mtu_result;
	__builtin_memcpy(hop->link, ask.dmac, 6);
	__builtin_memcpy(hop->link + 6, ask.smac, 6);
	return 0;
}

/* The next hop of a backend: what this CPU found out lately. */
static __always_inline struct hop *next_hop(struct xdp_md *ctx, const struct tunnel *tunnel,
					    __u32 backend, int *outcome)
{
	__u32 row = backend % HOPS, now = tick();
	struct hop *hop = bpf_map_lookup_elem(&hops, &row);

	if (!hop) {
		*outcome = NO_ROUTE;
		return 0;
	}
	if (hop->backend == backend + 1 && (__s32)(hop->until - now) > 0)
		return hop;
	hop->backend = 0;
	*outcome = look_up(ctx, hop, tunnel);
	if (*outcome)
		return 0;
	if (hop->port != ctx->ingress_ifindex && !bpf_map_lookup_elem(&ports, &hop->port)) {
		*outcome = NO_PORT;
		return 0;
	}
	hop->backend = backend + 1;
	hop->until = now + HOP_TICKS;
	return hop;
}

#endif
