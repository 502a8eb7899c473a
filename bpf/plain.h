/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What the programs share that take plain packets and leave all others to the kernel: addresses as keys, sets of
 * keys, and the family of a frame for this device.
 */
#ifndef TUNLB_PLAIN_H
#define TUNLB_PLAIN_H

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ip.h"

/* IPv4 as ::ffff:a.b.c.d */
struct address {
	__u8 bytes[16];
};

/* A set; its values mean nothing. */
#define SET(name, kind, entry, entries)              \
	struct {                                     \
		__uint(type, kind);                  \
		__uint(max_entries, entries);        \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__type(key, entry);                  \
		__type(value, __u8);                 \
	} name SEC(".maps")

/* Entries of a set whose size the loader sets. */
#define AS_LOADED 1

/* The device's link-layer address, as the loader sets it: frames for others are the kernel's. */
const volatile __u8 device_address[ETH_ALEN] = {};

static __always_inline int is_for_device(const struct ethhdr *link)
{
	__u8 difference = 0;

	for (int byte = 0; byte < ETH_ALEN; byte++)
		difference |= link->h_dest[byte] ^ device_address[byte];
	return difference == 0;
}

static __always_inline void map_v4(struct address *to, __be32 address)
{
	__builtin_memset(to, 0, sizeof(*to));
	to->bytes[10] = 0xff;
	to->bytes[11] = 0xff;
	__builtin_memcpy(&to->bytes[12], &address, 4);
}

/* The IPv4 header of a whole packet, or NULL: a fragment, or less than a header. */
static __always_inline struct iphdr *whole_v4(void *at, void *end)
{
	struct iphdr *ip = at;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return NULL;
	return ip->frag_off & bpf_htons(MORE_OR_OFFSET) ? NULL : ip;
}

/* An IPv6 header, or NULL. */
static __always_inline struct ipv6hdr *fixed_v6(void *at, void *end)
{
	struct ipv6hdr *ip = at;

	return (void *)(ip + 1) > end || ip->version != 6 ? NULL : ip;
}

/* The protocol of a frame for this device, in network order; 0: it is too short, or for another. */
static __always_inline __be16 protocol_of_frame(const struct ethhdr *link, void *end)
{
	return (void *)(link + 1) > end || !is_for_device(link) ? 0 : link->h_proto;
}

#endif
