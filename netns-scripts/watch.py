#!/usr/bin/env python3
"""Prints one line for each IPv4 packet that an interface receives or sends, tunnels opened.

    watch.py INTERFACE

    in  IPIP 31.3.7.141 > 31.3.7.150: TCP 31.3.7.140:41000 > 31.3.7.2:22 [S]

What `tcpdump -ni INTERFACE` would show, without the dependency. It is the labs' witness that a
packet arrived, or that an answer never left. It only looks; it stands before the IP layer, so it
sees what rp_filter drops later. IPv4 header: RFC 791; IP in IP: RFC 2003.
"""

import signal
import socket
import struct
import sys

ETH_P_ALL = 3  # only a tap for all protocols sees what leaves, too
ETH_P_IP = 0x0800
FLAGS = "FSRP.UEW"  # TCP flag bits from the lowest, in tcpdump's letters


def describe(packet):
    """The packet as text, or None when its IPv4 header does not fit its bytes."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    protocol, inner = packet[9], packet[(packet[0] & 15) * 4 :]
    src, dst = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    if protocol == socket.IPPROTO_IPIP:
        return f"IPIP {src} > {dst}: {describe(inner)}"
    if protocol == socket.IPPROTO_TCP and len(inner) >= 20:
        sport, dport = struct.unpack_from("!HH", inner)
        flags = "".join(c for i, c in enumerate(FLAGS) if inner[13] >> i & 1)
        return f"TCP {src}:{sport} > {dst}:{dport} [{flags}]"
    return f"protocol {protocol} {src} > {dst}"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as tap:
        tap.bind((sys.argv[1], ETH_P_ALL))
        # What was seen before the signal is still printed: a tap that may not wait ends when empty.
        signal.signal(signal.SIGTERM, lambda *_: tap.setblocking(False))
        print(f"watching {sys.argv[1]}", flush=True)
        while True:
            try:
                packet, (_, ethertype, kind, *_) = tap.recvfrom(65535)
            except BlockingIOError:
                return
            text = describe(packet) if ethertype == ETH_P_IP else None
            if text:
                print("out" if kind == socket.PACKET_OUTGOING else "in ", text, flush=True)


if __name__ == "__main__":
    main()
