"""stray.py DEVICE: straight into a device's queues, until it is ended: ICMP errors about flows of the VIP from
many routers, and first and last fragments of datagrams to it from many ports. Says "sending" once it does.
"""

import random
import socket
import struct
import sys

rng, device = random.Random(1), sys.argv[1]
VIP = bytes((10, 0, 0, 100))


def ipv4(source, destination, protocol, fragment, payload):
    length = 20 + len(payload)
    head = struct.pack(">BBHHHBBH", 0x45, 0, length, rng.randrange(65536), fragment, 64, protocol, 0)
    return head + source + destination + payload


def client():
    return bytes((10, 0, 9, rng.randrange(1, 255)))


def error():
    quoted = ipv4(VIP, client(), 6, 0, struct.pack(">HHI", 80, rng.randrange(1, 65536), 1))
    return ipv4(client(), VIP, 1, 0, struct.pack(">BBHI", 3, 1, 0, 0) + quoted)


def fragments():
    first = struct.pack(">HHIIBBHHH", rng.randrange(1, 65536), 80, 1, 1, 0x50, 0x10, 512, 0, 0) + bytes(4)
    packet = ipv4(client(), VIP, 6, 0x2000, first)
    return packet, packet[:6] + struct.pack(">H", 3) + packet[8:]


with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
    print("sending", flush=True)
    while True:
        for packet in (error(), *fragments()):
            sock.sendto(packet, (device, 0x0800))
