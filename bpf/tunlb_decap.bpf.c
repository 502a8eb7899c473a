// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Takes tunnel packets out of their tunnels before the kernel's stack sees them: IP in IP in all four families,
 * or GUE. Only what is admitted and plain is: whatever else there is goes on as it came, to the sockets of
 * `tunlb decap`, which take it out or refuse it, and count why. So no reason is known here.
 *
 * Read first: RFC 2003, RFC 2473, RFC 4213, draft-ietf-intarea-gue-09, RFC 6040 (ECN).
 */
#include <linux/udp.h>

#include "plain.h"

/* A family's sources: the family's number (4 or 6) is the first byte, the address follows. */
struct network {
	__u32 bits;
	__u8 family;
	__u8 bytes[16];
} __attribute__((packed));

/* Where GUE arrives; 0: IP in IP is taken instead. */
const volatile __be16 gue_port = 0;

/* Inner destinations. */
SET(vips, BPF_MAP_TYPE_HASH, struct address, AS_LOADED);

/* Outer sources. */
SET(directors, BPF_MAP_TYPE_LPM_TRIE, struct network, AS_LOADED);

/* Addresses of this machine: outer destinations, and never an inner source. */
SET(local, BPF_MAP_TYPE_HASH, struct address, 65536);

/* Packets that were taken out. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} taken_out SEC(".maps");

/* An outer header, and where the next one is. */
struct outer {
	void *payload;
	__u32 length; /* of the payload, as the headers have it */
	__u8 protocol;
	__u8 ecn;
};

static __always_inline int is_mapped(const struct in6_addr *address)
{
	return !address->s6_addr32[0] && !address->s6_addr32[1] &&
	       address->s6_addr32[2] == bpf_htonl(0xffff);
}

/* Whether the ones' complement sum of a header without options is right (RFC 1071). */
static __always_inline int has_right_sum(struct iphdr *ip)
{
	__u64 sum = bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) == 0xffff;
}

static __always_inline int open_v4(void *data, void *end, struct outer *outer)
{
	struct iphdr *ip = whole_v4(data, end);
	struct network from = { .bits = 8 + 32, .family = 4 };
	struct address to;
	__u32 length;

	if (!ip || ip->ihl != 5)
		return 0;
	length = bpf_ntohs(ip->tot_len);
	if (length < sizeof(*ip) || data + length > end)
		return 0;
	map_v4(&to, ip->daddr);
	__builtin_memcpy(from.bytes, &ip->saddr, 4);
	if (!bpf_map_lookup_elem(&local, &to) || !bpf_map_lookup_elem(&directors, &from))
		return 0;
	if (!has_right_sum(ip))
		return 0;
	outer->payload = ip + 1;
	outer->length = length - sizeof(*ip);
	outer->protocol = ip->protocol;
	outer->ecn = ip->tos & 3;
	return 1;
}

static __always_inline int open_v6(void *data, void *end, struct outer *outer)
{
	struct ipv6hdr *ip = fixed_v6(data, end);
	struct network from = { .bits = 8 + 128, .family = 6 };
	struct address to;
	__u32 length;

	if (!ip)
		return 0;
	length = bpf_ntohs(ip->payload_len);
	if ((void *)(ip + 1) + length > end)
		return 0;
	__builtin_memcpy(&to, &ip->daddr, sizeof(to));
	__builtin_memcpy(from.bytes, &ip->saddr, sizeof(from.bytes));
	if (is_mapped(&ip->daddr) || !bpf_map_lookup_elem(&local, &to) ||
	    !bpf_map_lookup_elem(&directors, &from))
		return 0;
	outer->payload = ip + 1;
	outer->length = length;
	outer->protocol = ip->nexthdr;
	outer->ecn = (ip->flow_lbl[0] >> 4) & 3;
	return 1;
}

/* Goes on to the packet in UDP: behind it (variant 1), or behind a header of GUE's own without any field
 * (variant 0). What the packet is by then is in `protocol`. */
static __always_inline int open_gue(void *end, struct outer *outer)
{
	struct udphdr *udp = outer->payload;
	__u8 *first = (void *)(udp + 1);
	__u32 length;

	if (outer->protocol != IPPROTO_UDP || (void *)(udp + 1) + 4 > end || udp->dest != gue_port)
		return 0;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) + 4 || length > outer->length)
		return 0;
	outer->payload = first;
	outer->length = length - sizeof(*udp);
	if (first[0] >> 4 == 4) {
		outer->protocol = IPPROTO_IPIP;
	} else if (first[0] >> 4 == 6) {
		outer->protocol = IPPROTO_IPV6;
	} else if (first[0] == 0 && first[2] == 0 && first[3] == 0) {
		outer->protocol = first[1];
		outer->payload = first + 4;
		outer->length -= 4;
	} else {
		return 0;
	}
	return 1;
}

/* The inner ECN field behind a tunnel (RFC 6040 §4.2), or -1 where the packet is to be refused. */
static __always_inline int merged(__u8 outer, __u8 inner)
{
	if (outer == 3)
		return inner ? 3 : -1;
	return outer == 1 && inner == 2 ? 1 : inner;
}

/* Whether a client may have that address. */
static __always_inline int is_foreign(const struct address *address)
{
	return !bpf_map_lookup_elem(&local, address) && !bpf_map_lookup_elem(&vips, address);
}

static __always_inline int admit_v4(void *end, const struct outer *outer)
{
	struct iphdr *ip = outer->payload;
	struct address from, to;
	__u32 length, sum;
	int ecn;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return 0;
	length = bpf_ntohs(ip->tot_len);
	if (length < (__u32)ip->ihl * 4 || length > outer->length)
		return 0;
	map_v4(&from, ip->saddr);
	map_v4(&to, ip->daddr);
	if (from.bytes[12] == 127 || !bpf_map_lookup_elem(&vips, &to) || !is_foreign(&from))
		return 0;
	ecn = merged(outer->ecn, ip->tos & 3);
	if (ecn < 0)
		return 0;
	if (ecn != (ip->tos & 3)) {
		/* RFC 1624: ~(~sum + ~old + new), of the low byte of the header's first word */
		sum = (__u16)~bpf_ntohs(ip->check) + (__u16)~(ip->tos & 3) + ecn;
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		ip->check = bpf_htons((__u16)~sum);
		ip->tos = (ip->tos & ~3) | ecn;
	}
	return 1;
}

static __always_inline int admit_v6(void *end, const struct outer *outer)
{
	struct ipv6hdr *ip = fixed_v6(outer->payload, end);
	struct address from, to;
	int ecn;

	if (!ip)
		return 0;
	if (sizeof(*ip) + bpf_ntohs(ip->payload_len) > outer->length)
		return 0;
	__builtin_memcpy(&from, &ip->saddr, sizeof(from));
	__builtin_memcpy(&to, &ip->daddr, sizeof(to));
	/* Mapped IPv4 addresses, and ::1 (RFC 4291 §2.5) */
	if (is_mapped(&ip->saddr) || is_mapped(&ip->daddr))
		return 0;
	if (!ip->saddr.s6_addr32[0] && !ip->saddr.s6_addr32[1] && !ip->saddr.s6_addr32[2])
		return 0;
	if (!bpf_map_lookup_elem(&vips, &to) || !is_foreign(&from))
		return 0;
	ecn = merged(outer->ecn, (ip->flow_lbl[0] >> 4) & 3);
	if (ecn < 0)
		return 0;
	ip->flow_lbl[0] = (ip->flow_lbl[0] & 0xcf) | (ecn << 4);
	return 1;
}

/* Cuts what is before the inner packet, and puts the link header in front of it again. */
static __always_inline int cut(struct xdp_md *context, __u32 overhead, __be16 protocol)
{
	struct ethhdr saved, *link = (void *)(long)context->data;
	__u64 *counter;
	__u32 zero = 0;

	if ((void *)(link + 1) > (void *)(long)context->data_end)
		return XDP_PASS;
	saved = *link;
	saved.h_proto = protocol;
	if (bpf_xdp_adjust_head(context, overhead))
		return XDP_PASS;
	link = (void *)(long)context->data;
	if ((void *)(link + 1) > (void *)(long)context->data_end)
		return XDP_ABORTED; /* the inner header was there */
	*link = saved;
	counter = bpf_map_lookup_elem(&taken_out, &zero);
	if (counter)
		(*counter)++;
	return XDP_PASS;
}

SEC("xdp")
int tunlb_decap(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct ethhdr *link = data;
	struct outer outer = {};
	__be16 protocol = protocol_of_frame(link, end);
	int is_open = 0;
	__u32 overhead;

	if (protocol == bpf_htons(ETH_P_IP))
		is_open = open_v4(link + 1, end, &outer);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		is_open = open_v6(link + 1, end, &outer);
	if (!is_open || (gue_port && !open_gue(end, &outer)))
		return XDP_PASS;
	overhead = outer.payload - (void *)(link + 1);
	if (outer.protocol == IPPROTO_IPIP && admit_v4(end, &outer))
		return cut(context, overhead, bpf_htons(ETH_P_IP));
	if (outer.protocol == IPPROTO_IPV6 && admit_v6(end, &outer))
		return cut(context, overhead, bpf_htons(ETH_P_IPV6));
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
