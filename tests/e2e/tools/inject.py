"""inject.py SEED COUNT DEVICE: hostile packets straight into a device's queue, past the kernel's checks.

COUNT packets of COUNT/4 kinds each: random bytes; random bytes after a valid IPv4 header to the VIP;
a valid TCP packet with random bytes changed; the same cut short. All follow from SEED.
"""

import random
import socket
import struct
import sys

rng, count, device = random.Random(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
VIP = bytes((10, 0, 0, 100))


def header(payload, protocol):
    source = bytes((10, 0, 9, rng.randrange(1, 255)))
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0) + source + VIP


def noise():
    return rng.randbytes(rng.randrange(1, 200))


def garbage_for_the_vip():
    payload = noise()
    return header(payload, rng.choice((1, 4, 6, 17, 50, 132, rng.randrange(256)))) + payload


def segment():
    ports = struct.pack(">HH", rng.randrange(1024, 65536), 80)
    tcp = ports + rng.randbytes(8) + struct.pack(">BBHHH", 0x50, 0x18, 512, 0, 0) + noise()
    return header(tcp, 6) + tcp


def changed():
    packet = bytearray(segment())
    for _ in range(rng.randrange(1, 6)):
        packet[rng.randrange(40)] = rng.randrange(256)
    return bytes(packet)


def cut():
    return segment()[: rng.randrange(1, 41)]


with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
    for kind in (noise, garbage_for_the_vip, changed, cut):
        for _ in range(count // 4):
            sock.sendto(kind(), (device, 0x0800))
