/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * Which backend takes a packet, as `Director::target` in `src/director/mod.rs` says: a known flow keeps its
 * backend while that takes it, a new one gets the ring's.
 *
 * These maps are the flow table of the director, too: a packet that it gets from the kernel is looked up here.
 */
#ifndef TUNLB_FLOWS_H
#define TUNLB_FLOWS_H

#include "maps.h"
#include "parse.h"
#include "siphash.h"

/* Where a packet goes. */
struct target {
	__u64 hash; /* of its 5-tuple */
	__u32 backend;
	__u32 vip_seat;
};

static __always_inline __u32 tick(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* The counters of this CPU. */
static __always_inline struct traffic *traffic_of(const struct settings *settings, __u32 backend)
{
	__u32 row = bpf_get_smp_processor_id() * settings->backends + backend;

	return bpf_map_lookup_elem(&traffic, &row);
}

static __always_inline void count_drop(const struct settings *settings, __u32 seat, __u32 reason)
{
	__u32 row = bpf_get_smp_processor_id() * settings->seats + seat;
	struct drops *counted = bpf_map_lookup_elem(&drops, &row);

	if (counted)
		counted->packets[reason & (DROP_REASONS - 1)]++;
}

/* The class of a flow after another of its packets: `FlowClass::after`. */
static __always_inline __u8 class_after(__u8 class, const struct packet *p)
{
	if (p->is_udp)
		return UDP_FLOW;
	if (p->rst)
		return RESET;
	if (p->fin)
		return CLOSING;
	if (p->opens || class == CLOSING || class == RESET)
		return class;
	return ESTABLISHED;
}

static __always_inline int is_over(const struct settings *settings, const struct flow *flow,
				   const struct packet *p, __u32 now)
{
	__u32 class = flow->class;
	__s32 idle = now - flow->used;

	if (class >= CLASSES)
		return 1;
	if (p->opens && (class == CLOSING || class == RESET))
		return 1;
	return idle > 0 && (__u32)idle >= settings->timeouts[class];
}

/* A packet of the flow went by. `is_first`: the flow is among those of one packet. */
static __always_inline void refresh(struct flow *flow, const struct packet *p, __u32 now, int is_first)
{
	__u8 class = class_after(flow->class, p);

	if (flow->used != now)
		flow->used = now;
	if (class == flow->class)
		return;
	if (is_first) {
		struct flow moved = *flow;

		moved.class = class;
		bpf_map_update_elem(&flows, &p->key, &moved, BPF_ANY);
		bpf_map_delete_elem(&first_flows, &p->key);
		return;
	}
	flow->class = class;
}

/* The row of the VIP of a packet: exact port first, then any port. */
static __always_inline struct vip *find_vip(const struct settings *settings, const struct packet *p)
{
	struct service key = {};
	__u32 *row;

	__builtin_memcpy(key.address, p->key.destination, sizeof(key.address));
	key.port = p->key.destination_port;
	key.protocol = p->key.protocol;
	key.family = p->key.family;
	row = key.port ? bpf_map_lookup_elem(&services, &key) : 0;
	if (!row && settings->has_any_port) {
		key.port = 0;
		row = bpf_map_lookup_elem(&services, &key);
	}
	return row ? bpf_map_lookup_elem(&vips, row) : 0;
}

/* The ring's choice. */
static __always_inline __u32 *choose(const struct vip *vip, __u64 hash)
{
	__u32 at, row, position;
	struct block *block;

	if (!vip->slots)
		return 0;
	at = hash % vip->slots;
	if (vip->wide)
		at *= 2;
	row = vip->ring + (at >> BLOCK_SHIFT);
	block = bpf_map_lookup_elem(&rings, &row);
	if (!block)
		return 0;
	at &= sizeof(block->slots) - 1;
	if (vip->wide)
		position = *(__u16 *)(block->slots + (at & ~1U));
	else
		position = block->slots[at];
	if (position >= vip->count)
		return 0;
	row = vip->members + position;
	return bpf_map_lookup_elem(&members, &row);
}

/* Whether one more flow of a VIP may enter: the token bucket of `src/director/rate_limit.rs` as one number, the
 * moment until which flows are paid for. */
static __always_inline int allows(const struct vip *vip)
{
	__u64 now, *paid, before, after;
	__u32 row = vip->seat;

	if (!vip->cost_ns)
		return 1;
	paid = bpf_map_lookup_elem(&limits, &row);
	if (!paid)
		return 1;
	now = bpf_ktime_get_ns();
	for (int i = 0; i < 4; i++) {
		before = *(volatile __u64 *)paid;
		after = (before > now ? before : now) + vip->cost_ns;
		if (after > now + vip->burst_ns)
			return 0;
		if (__sync_val_compare_and_swap(paid, before, after) == before)
			return 1;
	}
	return 1;
}

static __always_inline void enter(const struct settings *settings, const struct packet *p,
				  const struct vip *vip, const struct target *target, __u32 now)
{
	struct traffic *counted = traffic_of(settings, target->backend);
	struct flow flow = {
		.hash = target->hash,
		.backend = target->backend,
		.used = now,
		.generation = settings->generation,
		.class = p->is_udp ? FIRST_DATAGRAM : HALF_OPEN,
	};

	if (!allows(vip)) {
		if (counted)
			counted->untracked++;
		return;
	}
	if (counted)
		counted->new_flows++;
	bpf_map_update_elem(&first_flows, &p->key, &flow, BPF_ANY);
}

/* A flow that is new, or that may have to move: its VIP says where it goes. */
static __always_inline int settle(const struct settings *settings, const struct packet *p,
				  struct flow *flow, int is_first, __u32 now,
				  struct target *target)
{
	struct vip *vip = find_vip(settings, p);
	__u64 hash;
	__u32 *chosen;

	if (!vip)
		return NOT_VIP;
	target->vip_seat = vip->seat;
	if (vip->clamps_mss && p->opens)
		return MSS;
	if (flow) {
		struct lane *lane = bpf_map_lookup_elem(&lanes, &flow->backend);

		if (!lane || lane->seat != vip->seat + 1)
			return MOVED;
		if (lane->takes == NEW_FLOWS || (lane->takes == KNOWN_FLOWS && !p->opens)) {
			target->backend = flow->backend;
			target->hash = flow->hash;
			flow->generation = settings->generation;
			refresh(flow, p, now, is_first);
			return 0;
		}
		/* A SYN is of a new flow, whatever is remembered of its ports. */
		if (lane->takes == KNOWN_FLOWS)
			flow = 0;
	}
	target->hash = hash_flow(settings, &p->key);
	hash = target->hash;
	if (vip->fields == SOURCE_ADDRESS)
		hash = hash_client(settings, &p->key);
	else if (vip->fields == DESTINATION_PORT)
		hash = hash_port(settings, &p->key);
	chosen = choose(vip, hash);
	if (!chosen) {
		count_drop(settings, vip->seat, DROP_NO_BACKEND);
		return DROPPED;
	}
	target->backend = *chosen;
	if (flow) {
		flow->backend = target->backend;
		flow->generation = settings->generation;
		refresh(flow, p, now, is_first);
	} else {
		if (!is_first)
			bpf_map_delete_elem(&flows, &p->key);
		enter(settings, p, vip, target, now);
	}
	return 0;
}

/* Fills in `target`. Returns 0, or the outcome of a packet that goes elsewhere. */
static __always_inline int find_target(const struct settings *settings, const struct packet *p,
				       struct target *target)
{
	__u32 now = tick();
	int is_first = 0;
	struct flow *flow = bpf_map_lookup_elem(&flows, &p->key);

	if (!flow) {
		flow = bpf_map_lookup_elem(&first_flows, &p->key);
		is_first = 1;
	}
	if (flow && is_over(settings, flow, p, now))
		flow = 0;
	if (flow && flow->generation == (__u16)settings->generation) {
		struct lane *lane = bpf_map_lookup_elem(&lanes, &flow->backend);

		if (lane &&
		    (lane->takes == NEW_FLOWS || (lane->takes == KNOWN_FLOWS && !p->opens))) {
			target->backend = flow->backend;
			target->hash = flow->hash;
			target->vip_seat = lane->seat - 1;
			refresh(flow, p, now, is_first);
			return 0;
		}
	}
	return settle(settings, p, flow, is_first, now, target);
}

#endif
