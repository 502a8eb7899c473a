"""Sends one router advertisement (RFC 4861 §4.2) out of a device, to all nodes, with a prefix for addresses.

Arguments: the device, the prefix (of 64 bits).
"""
import socket
import struct
import sys

device, prefix = sys.argv[1:3]
sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
index = socket.if_nametoindex(device)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
# Type 134, a checksum that the kernel computes, hop limit 64, 1800 s as default router.
header = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
# Prefix information (§4.6.2): on link and for autoconfiguration, for an hour.
information = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0)
sender.sendto(
    header + information + socket.inet_pton(socket.AF_INET6, prefix),
    ("ff02::1", 0, 0, index),
)
