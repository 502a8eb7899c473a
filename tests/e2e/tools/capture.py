"""capture.py DEVICE: every IPv4 packet of DEVICE, both directions, one line of hex for each."""

import socket
import sys

with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((sys.argv[1], 3))
    print("capturing", file=sys.stderr, flush=True)
    while True:
        packet, (_, protocol, *_) = sock.recvfrom(65535)
        if protocol == 0x0800:
            print(packet.hex(), flush=True)
