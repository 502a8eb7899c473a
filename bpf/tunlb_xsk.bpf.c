// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Sends packets for VIPs to the AF_XDP socket of the queue that they arrived by; everything else goes on to the
 * kernel: other addresses and ports, ICMP, fragments, VLAN tags, extension headers, whatever is not understood.
 * No decision about flows is made here.
 */
#include "plain.h"

/* What packets are taken; the port is 0 where all are. */
struct service {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

SET(services, BPF_MAP_TYPE_HASH, struct service, AS_LOADED);

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
	struct iphdr *ip = whole_v4(data, end);

	if (!ip)
		return 0;
	map_v4(&to->address, ip->daddr);
	to->protocol = ip->protocol;
	to->port = port_of(data + ip->ihl * 4, end, ip->protocol);
	return to->port != 0;
}

static __always_inline int read_v6(void *data, void *end, struct service *to)
{
	struct ipv6hdr *ip = fixed_v6(data, end);

	if (!ip)
		return 0;
	__builtin_memcpy(&to->address, &ip->daddr, sizeof(to->address));
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
	__be16 protocol = protocol_of_frame(link, end);
	int is_known = 0;

	if (protocol == bpf_htons(ETH_P_IP))
		is_known = read_v4(link + 1, end, &sought);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		is_known = read_v6(link + 1, end, &sought);
	if (!is_known)
		return XDP_PASS;
	if (!bpf_map_lookup_elem(&services, &sought)) {
		sought.port = 0;
		if (!bpf_map_lookup_elem(&services, &sought))
			return XDP_PASS;
	}
	/* A queue without a socket: the kernel's way. What a socket has no room for is lost, and counted by it. */
	return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
