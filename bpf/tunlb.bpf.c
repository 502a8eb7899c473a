// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * The XDP fast path: what the director does with the packets of flows, in the driver. `docs/xdp.md` says what
 * runs where.
 *
 * A packet's way: parse (parse.h) -> flow table, VIP, ring (flows.h) -> path MTU and next hop -> outer header
 * (encap.h) -> out. Until the outer header nothing of the packet is changed, so that at each step before it can
 * go to the kernel, and from there to the director itself.
 */
#include "encap.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

static __always_inline void count_outcome(int outcome)
{
	__u32 row = bpf_get_smp_processor_id();
	struct outcomes *counted = bpf_map_lookup_elem(&outcomes, &row);

	if (counted)
		counted->packets[outcome & 31]++;
}

/* Puts the outer header and a link header in place of the old one. Returns a verdict of XDP. */
static __always_inline int send(struct xdp_md *ctx, const struct settings *settings,
				const struct packet *p, const struct target *target,
				const struct tunnel *tunnel, const struct hop *hop)
{
	__u32 overhead = overhead_of(tunnel->shape);
	struct ethhdr *link;
	void *data, *end;
	struct traffic *counted;

	/* The checksum runs to the end of the frame. */
	if (tunnel->shape == IPV6_UDP) {
		long padding;

		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		padding = end - data - p->start - p->length;
		if (padding > 0 && bpf_xdp_adjust_tail(ctx, -(int)padding))
			return NO_ROOM;
	}
	if (bpf_xdp_adjust_head(ctx, (int)(p->start - sizeof(*link) - overhead)))
		return NO_ROOM;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	link = data;
	if ((void *)(link + 1) > end ||
	    write_header(settings, link + 1, end, tunnel, p, target->hash)) {
		count_drop(settings, target->vip_seat, DROP_SEND_FAILED);
		return DROPPED;
	}
	copy_words(link, hop->link, sizeof(hop->link));
	link->h_proto = tunnel->shape == IPV4 || tunnel->shape == IPV4_UDP ? bpf_htons(ETH_P_IP) :
									       bpf_htons(ETH_P_IPV6);
	if (tunnel->shape == IPV6_UDP && !sum_udp(ctx)) {
		count_drop(settings, target->vip_seat, DROP_SEND_FAILED);
		return DROPPED;
	}
	counted = traffic_of(settings, target->backend);
	if (counted) {
		counted->packets++;
		counted->bytes += p->length;
	}
	return hop->port == ctx->ingress_ifindex && !p->redirects ? SENT_BACK : REDIRECTED;
}

/* What becomes of a packet, and by which device it leaves. */
static __always_inline int balance(struct xdp_md *ctx, __u32 *port)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet packet = {};
	struct target target = {};
	struct tunnel tunnel;
	struct settings *settings;
	struct lane *lane;
	struct hop *hop;
	__u32 row = 0;
	int outcome;

	settings = bpf_map_lookup_elem(&settings_map, &row);
	if (!settings || !settings->ready)
		return NOT_READY;
	outcome = parse(&packet, settings, ctx->ingress_ifindex, data, end);
	if (outcome)
		return outcome;
	outcome = find_target(settings, &packet, &target);
	if (outcome)
		return outcome;
	lane = bpf_map_lookup_elem(&lanes, &target.backend);
	if (!lane)
		return CHANGING;
	outcome = read_lane(&tunnel, lane);
	if (outcome)
		return outcome;
	if (!fits(&tunnel, &packet))
		return TOO_BIG;
	hop = next_hop(ctx, &tunnel, target.backend, &outcome);
	if (!hop)
		return outcome;
	if (hop->mtu && packet.length + overhead_of(tunnel.shape) > hop->mtu)
		return TOO_BIG;
	*port = hop->port;
	return send(ctx, settings, &packet, &target, &tunnel, hop);
}

SEC("xdp")
int tunlb_director(struct xdp_md *ctx)
{
	__u32 port = 0;
	int outcome = balance(ctx, &port);

	count_outcome(outcome);
	switch (outcome) {
	case SENT_BACK:
		return XDP_TX;
	case REDIRECTED:
		return bpf_redirect_map(&ports, port, XDP_DROP);
	case DROPPED:
		return XDP_DROP;
	default:
		return XDP_PASS;
	}
}
