/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
 *
 * What <linux/ip.h> has no names for (RFC 791 §3.1).
 */
#ifndef TUNLB_IP_H
#define TUNLB_IP_H

#define DONT_FRAGMENT 0x4000

/* More fragments follow, or the offset is not 0. */
#define MORE_OR_OFFSET 0x3fff

#endif
