/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What the program and the director share: keys and rows of the maps. `src/io/xdp/layout.rs` is the other
 * side; both assert the same sizes. Numbers are in host order, addresses and ports in network order, unless
 * said otherwise.
 */
#ifndef TUNLB_LAYOUT_H
#define TUNLB_LAYOUT_H

#include <linux/types.h>

/* A flow as the client sends it. IPv4 addresses are in the first word, the others are 0. */
struct flow_key {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u16 zero;
};

/* The classes of `director::FlowClass`, by number. */
enum class {
	HALF_OPEN,
	FIRST_DATAGRAM,
	ESTABLISHED,
	CLOSING,
	RESET,
	UDP_FLOW,
	CLASSES,
};

/* A flow of the table. */
struct flow {
	__u64 hash; /* of its 5-tuple: entropy of the outer header */
	__u32 backend;
	__u32 used; /* tick of its last packet */
	__u16 generation; /* of the services by which its backend was found to be of its VIP */
	__u8 class;
	__u8 zero[5];
};

/* A tick is 2^26 ns (67 ms) of CLOCK_MONOTONIC. */
#define TICK_SHIFT 26

/* What clients address. Port 0 is any. */
struct service {
	__be32 address[4];
	__be16 port;
	__u8 protocol;
	__u8 family;
	__u32 zero;
};

/* What of a packet is hashed: `director::HashFields`. */
enum fields { FIVE_TUPLE, SOURCE_ADDRESS, DESTINATION_PORT };

/* A VIP. A row never changes while packets can find it: another state of the VIP is another row. */
struct vip {
	__u64 cost_ns; /* of a new flow; 0: no limit */
	__u64 burst_ns; /* what may come at once */
	__u32 slots; /* of its ring; 0: no backend takes new flows */
	__u32 ring; /* its first block */
	__u32 members; /* its first member: what position 0 in a slot means */
	__u32 count; /* of the members */
	__u32 seat; /* what is counted for it goes by this */
	__u8 fields;
	__u8 wide; /* a slot has two bytes */
	__u8 clamps_mss;
	__u8 zero[25];
};

/* A part of a ring. */
#define BLOCK_SHIFT 12
struct block {
	__u8 slots[1 << BLOCK_SHIFT];
};

/* Which flows a backend takes: `director::Takes`, from none. */
enum takes { NOTHING, KNOWN_FLOWS, NEW_FLOWS };

/* The headers that an outer header is made of. */
enum shape { IPV4, IPV4_UDP, IPV6, IPV6_UDP };

#define LONGEST_HEADER 48

/* A backend of one VIP: one cache line. */
struct lane {
	__u32 sequence; /* odd while the rest is written */
	__u32 seat; /* of its VIP, plus one; 0: none */
	__u16 mtu; /* the largest outer packet in bytes; 0: no limit is known */
	__u16 constant; /* folded sum of the words of `header` as they are in memory; IPv4 only */
	__u8 takes;
	__u8 shape;
	__u8 entropy_bits; /* low bits of the outer source that the flow's hash fills */
	__u8 usable; /* the outer source is known */
	__u8 header[LONGEST_HEADER]; /* from the outer IP header on; what differs from packet to packet is 0 */
};

/* A device that the program is attached to. */
struct port {
	__u32 index;
	__u8 address[6];
	__u16 redirects; /* what leaves by it is redirected to it also where it came by it: XDP_TX of a veth
			    reaches its peer only where that has a program, too */
};

#define MOST_PORTS 8

/* What holds for all packets. */
struct settings {
	__u64 key[2]; /* of the selection hash, little-endian */
	__u32 ready; /* 0: every packet goes to the kernel */
	__u32 generation; /* of the services */
	__u32 has_any_port; /* some service has any port */
	__u32 backends; /* counters of each CPU, below */
	__u32 seats;
	__u32 first_identification; /* of CPU 0 */
	__u32 identification_stride;
	__u32 timeouts[CLASSES]; /* in ticks */
	struct port ports[MOST_PORTS];
};

/* What a backend got by one CPU: in row CPU * settings.backends + backend. */
struct traffic {
	__u64 packets;
	__u64 bytes; /* of inner packets */
	__u64 untracked;
	__u64 new_flows;
};

/* Packets dropped for a VIP by one CPU, by `director::DropReason::number`: in row CPU * settings.seats + seat. */
enum drop_reason { DROP_NO_BACKEND = 2, DROP_TOO_BIG = 7, DROP_SEND_FAILED = 9, DROP_REASONS = 16 };
struct drops {
	__u64 packets[DROP_REASONS];
};

/* Why a packet went to the kernel, or how it left. */
enum outcome {
	SENT_BACK, /* by the device it came from */
	REDIRECTED,
	DROPPED,
	NOT_READY,
	NOT_IP,
	NOT_TO_US, /* by its link address */
	MALFORMED,
	OPTIONS,
	FRAGMENT,
	OTHER_PROTOCOL, /* ICMP, extension headers, and the rest */
	LAST_HOP, /* its TTL or hop limit is 1 */
	NOT_VIP,
	MOVED, /* its flow is of another VIP now */
	MSS, /* a SYN whose MSS is to be lowered */
	TOO_BIG,
	NO_SOURCE, /* the outer source is left to the kernel */
	NO_ROUTE,
	NO_NEIGHBOUR,
	NO_PORT, /* the way out is a device that takes no redirected packets */
	NO_ROOM, /* before the packet, for the outer header */
	CHANGING, /* the backend's row is being written */
	OUTCOMES,
};

/* Of one CPU. */
struct outcomes {
	__u64 packets[32];
};

_Static_assert(sizeof(struct flow_key) == 40, "as FlowRow::KEY");
_Static_assert(sizeof(struct flow) == 24, "as FlowRow::VALUE");
_Static_assert(sizeof(struct service) == 24, "as ServiceRow");
_Static_assert(sizeof(struct vip) == 64, "as VipRow");
_Static_assert(sizeof(struct lane) == 64, "as LaneRow");
_Static_assert(sizeof(struct settings) == 168, "as Settings");
_Static_assert(sizeof(struct traffic) == 32, "as Traffic");
_Static_assert(sizeof(struct drops) == 128, "as Drops");
_Static_assert(sizeof(struct outcomes) == 256, "as Outcomes");

#endif
