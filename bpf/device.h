/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* The device that a program is on. */
#ifndef TUNLB_DEVICE_H
#define TUNLB_DEVICE_H

#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

/* Its link-layer address, as the loader sets it: frames for others are the kernel's. */
const volatile __u8 device_address[ETH_ALEN] = {};

static __always_inline int is_for_device(const struct ethhdr *link)
{
	__u8 difference = 0;

	for (int byte = 0; byte < ETH_ALEN; byte++)
		difference |= link->h_dest[byte] ^ device_address[byte];
	return difference == 0;
}

#endif
