"""icmp6.py FILE DESTINATION: sends ICMPv6 messages, given in hex, one per line; the kernel fills in the checksum."""

import socket
import sys

with open(sys.argv[1]) as messages:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        for message in map(bytes.fromhex, messages):
            sock.sendto(message, (sys.argv[2], 0))
