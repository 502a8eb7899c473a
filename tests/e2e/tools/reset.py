"""reset.py SOURCE PORT DESTINATION PORT COUNT: sends TCP resets from a port of this host, by the way of its other packets."""

import socket
import struct
import sys

source, destination = sys.argv[1], sys.argv[3]
ports = int(sys.argv[2]), int(sys.argv[4])
segment = struct.pack("!HHIIBBHHH", *ports, 1, 0, 0x50, 4, 0, 0, 0)
pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6, len(segment))
words = struct.unpack(f"!{(len(pseudo) + len(segment)) // 2}H", pseudo + segment)
total = sum(words)
while total >> 16:
    total = (total & 0xFFFF) + (total >> 16)
segment = segment[:16] + struct.pack("!H", ~total & 0xFFFF) + segment[18:]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.bind((source, 0))
for _ in range(int(sys.argv[5])):
    raw.sendto(segment, (destination, 0))
