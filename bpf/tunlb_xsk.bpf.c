/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Sends packets for VIPs to the AF_XDP socket of the queue that they arrived by; everything else goes on to the
 * kernel: other addresses and ports, ICMP, fragments, VLAN tags, extension headers, whatever is not understood.
 * No decision about flows is made here.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "device.h"

/* What packets are taken; the port is 0 where all are. */
struct service {
	__u8 address[16]; /* IPv4 as ::ffff:a.b.c.d */
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* the loader says how many */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service);
	__type(value, __u8);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Returns the destination port of a TCP or UDP header, 0 where there is none. */
static __always_inline __be16 port_of(void *transport, void *end, __u8 protocol)
{
	__be16 *ports = transport;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	if ((void *)(ports + 2) > end)
		return 0;
	return ports[1];
}

static __always_inline int read_v4(void *data, void *end, struct service *to)
{
	struct iphdr *ip = data;
	__u32 length;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return 0;
	length = ip->ihl * 4;
	if (length < sizeof(*ip) || (ip->frag_off & bpf_htons(0x3fff)))
		return 0;
	to->address[10] = 0xff;
	to->address[11] = 0xff;
	__builtin_memcpy(&to->address[12], &ip->daddr, 4);
	to->protocol = ip->protocol;
	to->port = port_of(data + length, end, ip->protocol);
	return to->port != 0;
}

static __always_inline int read_v6(void *data, void *end, struct service *to)
{
	struct ipv6hdr *ip = data;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return 0;
	__builtin_memcpy(to->address, &ip->daddr, 16);
	to->protocol = ip->nexthdr;
	to->port = port_of(ip + 1, end, ip->nexthdr);
	return to->port != 0;
}

SEC("xdp")
int tunlb_xsk(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct ethhdr *link = data;
	struct service sought = {};
	int is_known = 0;

	if ((void *)(link + 1) > end || !is_for_device(link))
		return XDP_PASS;
	if (link->h_proto == bpf_htons(ETH_P_IP))
		is_known = read_v4(link + 1, end, &sought);
	else if (link->h_proto == bpf_htons(ETH_P_IPV6))
		is_known = read_v6(link + 1, end, &sought);
	if (!is_known)
		return XDP_PASS;
	if (!bpf_map_lookup_elem(&services, &sought)) {
		sought.port = 0;
		if (!bpf_map_lookup_elem(&services, &sought))
			return XDP_PASS;
	}
	/* A queue without a socket, and a socket without room for it: the kernel's way. */
	return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
