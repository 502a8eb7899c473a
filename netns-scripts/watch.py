#!/usr/bin/env python3
"""Prints one line for each IP packet that an interface receives or sends, tunnels opened.

    watch.py INTERFACE

    in  IPIP 31.3.7.141 > 31.3.7.150: TCP 31.3.7.140:41000 > 31.3.7.2:22 [S]

What `tcpdump -ni INTERFACE` would show, without the dependency. It is the labs' witness that a
packet arrived, or that an answer never left. It only looks; it stands before the IP layer, so it
sees what rp_filter drops later. Its lines are complete once it has ended, by SIGTERM.

IPv4 header: RFC 791; IPv6: RFC 8200, no extension headers. IP in IP: RFC 2003, 4213 and 2473, under
the names that ip-tunnel(8) has for them. GUE variant 1, the inner packet right behind the UDP
header: draft-ietf-intarea-gue-09, section 4.
"""

import signal
import socket
import struct
import sys

ETH_P_ALL = 3  # only a tap for all protocols sees what leaves, too
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
GUE_PORT = 6080
RECEIVE_BYTES = 4 << 20  # bursts wait here; the kernel gives what net.core.rmem_max allows
FLAGS = "FSRP.UEW"  # TCP flag bits from the lowest, in tcpdump's letters
# By the outer version and its protocol number.
TUNNELS = {(4, 4): "IPIP", (4, 41): "SIT", (6, 4): "IPIP6", (6, 41): "IP6IP6"}


def describe(packet):
    """The packet as text, or None when its IP header does not fit its bytes."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        protocol, payload = packet[9], packet[(packet[0] & 15) * 4 :]
        family, addresses = socket.AF_INET, packet[12:20]
    elif version == 6 and len(packet) >= 40:
        protocol, payload = packet[6], packet[40:]
        family, addresses = socket.AF_INET6, packet[8:40]
    else:
        return None
    half = len(addresses) // 2
    src, dst = (socket.inet_ntop(family, part) for part in (addresses[:half], addresses[half:]))
    if (version, protocol) in TUNNELS:
        return f"{TUNNELS[version, protocol]} {src} > {dst}: {describe(payload)}"
    return describe_payload(protocol, payload, src, dst)


def describe_payload(protocol, payload, src, dst):
    if protocol == socket.IPPROTO_TCP and len(payload) >= 20:
        sport, dport = struct.unpack_from("!HH", payload)
        flags = "".join(c for i, c in enumerate(FLAGS) if payload[13] >> i & 1)
        return f"TCP {src}:{sport} > {dst}:{dport} [{flags}]"
    if protocol == socket.IPPROTO_UDP and payload[2:4] == GUE_PORT.to_bytes(2, "big"):
        return f"GUE {src} > {dst}: {describe(payload[8:])}"
    return f"protocol {protocol} {src} > {dst}"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        tap.bind((sys.argv[1], ETH_P_ALL))
        # What was seen before the signal is still printed: a tap that may not wait ends when empty.
        signal.signal(signal.SIGTERM, lambda *_: tap.setblocking(False))
        print(f"watching {sys.argv[1]}", flush=True)
        while True:
            try:
                packet, (_, ethertype, kind, *_) = tap.recvfrom(65535)
            except BlockingIOError:
                return
            text = describe(packet) if ethertype in (ETH_P_IP, ETH_P_IPV6) else None
            if text:
                print("out" if kind == socket.PACKET_OUTGOING else "in ", text)


if __name__ == "__main__":
    main()
