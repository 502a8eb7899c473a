/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * The maps. The director sets their sizes when it loads the program, and writes all but the flows and counters;
 * those that it can map into its memory it writes there.
 */
#ifndef TUNLB_MAPS_H
#define TUNLB_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

#define MAPPED_ARRAY(name, row, rows)                 \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_ARRAY);     \
		__uint(map_flags, BPF_F_MMAPABLE);    \
		__uint(max_entries, rows);            \
		__type(key, __u32);                   \
		__type(value, row);                   \
	} name SEC(".maps")

MAPPED_ARRAY(settings_map, struct settings, 1);
MAPPED_ARRAY(vips, struct vip, 1);
MAPPED_ARRAY(rings, struct block, 1);
MAPPED_ARRAY(members, __u64, 1);
MAPPED_ARRAY(lanes, struct lane, 1);
MAPPED_ARRAY(limits, __u64, 1); /* by seat: until when its new flows are paid for */
MAPPED_ARRAY(traffic, struct traffic, 1);
MAPPED_ARRAY(drops, struct drops, 1);
MAPPED_ARRAY(outcomes, struct outcomes, 1); /* by CPU */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct service);
	__type(value, __u32); /* a row of `vips` */
} services SEC(".maps");

/* Flows of more than one packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* Flows of one packet, or of SYNs only: a flood of those pushes out its like, and no flow that lasts. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} first_flows SEC(".maps");

/* The devices that packets may leave by. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

/* What this CPU has found out about next hops, by backend, for a short time. */
struct hop {
	__u32 backend; /* plus one; 0: none */
	__u32 until; /* tick */
	__u32 port;
	__u32 mtu;
	__u8 link[12];
	__u32 zero;
};

#define HOPS 1024

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HOPS);
	__type(key, __u32);
	__type(value, struct hop);
} hops SEC(".maps");

/* The next outer identification of this CPU, in steps. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} identifications SEC(".maps");

#endif
