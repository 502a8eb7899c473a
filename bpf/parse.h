/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Reads a packet as far as a backend needs it: TCP or UDP directly in IPv4 or IPv6, whole. Whatever else there
 * is goes to the kernel and so to the director itself, which says why it is wrong.
 */
#ifndef TUNLB_PARSE_H
#define TUNLB_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>

#include "ip.h"
#include "layout.h"

struct vlan_header {
	__be16 tag;
	__be16 protocol;
};

/* Tags that are read past: IEEE 802.1ad has two. */
#define MOST_TAGS 2

/* What a packet says of itself. */
struct packet {
	struct flow_key key;
	__u32 start; /* of the IP header, in bytes from the start of the frame */
	__u32 length; /* of the IP packet */
	__u8 traffic_class;
	__u8 dont_fragment;
	__u8 is_udp;
	__u8 opens; /* SYN without ACK */
	__u8 fin;
	__u8 rst;
	__u8 redirects; /* the device that it came by wants that */
};

static __always_inline int parse_tcp(struct packet *p, void *at, void *end, __u32 length)
{
	struct tcphdr *tcp = at;

	if ((void *)(tcp + 1) > end || length < sizeof(*tcp))
		return MALFORMED;
	if (tcp->doff < 5 || (__u32)tcp->doff * 4 > length)
		return MALFORMED;
	p->key.source_port = tcp->source;
	p->key.destination_port = tcp->dest;
	p->key.protocol = IPPROTO_TCP;
	p->opens = tcp->syn && !tcp->ack;
	p->fin = tcp->fin;
	p->rst = tcp->rst;
	return 0;
}

static __always_inline int parse_udp(struct packet *p, void *at, void *end, __u32 length)
{
	struct udphdr *udp = at;
	__u32 claimed;

	if ((void *)(udp + 1) > end || length < sizeof(*udp))
		return MALFORMED;
	claimed = bpf_ntohs(udp->len);
	if (claimed < sizeof(*udp) || claimed > length)
		return MALFORMED;
	p->key.source_port = udp->source;
	p->key.destination_port = udp->dest;
	p->key.protocol = IPPROTO_UDP;
	p->is_udp = 1;
	return 0;
}

/* `length`: bytes of the transport header and what follows it. */
static __always_inline int parse_transport(struct packet *p, void *at, void *end, __u8 protocol,
					   __u32 length)
{
	if (protocol == IPPROTO_TCP)
		return parse_tcp(p, at, end, length);
	if (protocol == IPPROTO_UDP)
		return parse_udp(p, at, end, length);
	return OTHER_PROTOCOL;
}

static __always_inline int parse_v4(struct packet *p, void *at, void *end)
{
	struct iphdr *ip = at;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return MALFORMED;
	if (ip->ihl != 5)
		return OPTIONS;
	if (ip->frag_off & bpf_htons(MORE_OR_OFFSET))
		return FRAGMENT;
	p->length = bpf_ntohs(ip->tot_len);
	if (p->length < sizeof(*ip) || at + p->length > end)
		return MALFORMED;
	if (ip->ttl <= 1)
		return LAST_HOP;
	p->traffic_class = ip->tos;
	p->dont_fragment = !!(ip->frag_off & bpf_htons(DONT_FRAGMENT));
	p->key.source[0] = ip->saddr;
	p->key.destination[0] = ip->daddr;
	p->key.family = 4;
	return parse_transport(p, ip + 1, end, ip->protocol, p->length - sizeof(*ip));
}

static __always_inline int parse_v6(struct packet *p, void *at, void *end)
{
	struct ipv6hdr *ip = at;
	__u32 length;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return MALFORMED;
	length = bpf_ntohs(ip->payload_len);
	p->length = length + sizeof(*ip);
	if (p->length > 0xffff || at + p->length > end)
		return MALFORMED;
	if (ip->hop_limit <= 1)
		return LAST_HOP;
	p->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	p->dont_fragment = 1;
	__builtin_memcpy(p->key.source, &ip->saddr, sizeof(p->key.source));
	__builtin_memcpy(p->key.destination, &ip->daddr, sizeof(p->key.destination));
	p->key.family = 6;
	return parse_transport(p, ip + 1, end, ip->nexthdr, length);
}

/* Whether a frame is for this host by the address of the device that it came by. */
static __always_inline int is_to_us(struct packet *p, const struct settings *settings, __u32 device,
				    const struct ethhdr *link)
{
	__u32 high = *(__u32 *)link->h_dest;
	__u16 low = *(__u16 *)(link->h_dest + 4);

	for (int i = 0; i < MOST_PORTS; i++) {
		const struct port *port = &settings->ports[i];

		if (port->index == device) {
			p->redirects = port->redirects;
			return high == *(__u32 *)port->address &&
			       low == *(__u16 *)(port->address + 4);
		}
		if (port->index == 0)
			return 0;
	}
	return 0;
}

/* Fills in `p`, which is all 0. Returns 0, or the outcome of a packet that goes to the kernel. */
static __always_inline int parse(struct packet *p, const struct settings *settings, __u32 device,
				 void *data, void *end)
{
	struct ethhdr *link = data;
	void *at = link + 1;
	__be16 protocol;

	if (at > end)
		return NOT_IP;
	if (!is_to_us(p, settings, device, link))
		return NOT_TO_US;
	protocol = link->h_proto;
	for (int i = 0; i < MOST_TAGS; i++) {
		struct vlan_header *vlan = at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > end)
			return NOT_IP;
		protocol = vlan->protocol;
		at = vlan + 1;
	}
	p->start = at - data;
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_v4(p, at, end);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_v6(p, at, end);
	return NOT_IP;
}

#endif
