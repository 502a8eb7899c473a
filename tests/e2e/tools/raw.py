"""raw.py FILE: sends IPv4 packets, given in hex, one per line, through a raw socket.

The kernel fills in the header's total length and checksum, and what is zero of source and
identification (raw(7)).
"""

import socket
import sys

with open(sys.argv[1]) as packets:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for packet in map(bytes.fromhex, packets):
            sock.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
