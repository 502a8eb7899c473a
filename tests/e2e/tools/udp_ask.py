"""udp_ask.py ADDRESS PORT COUNT FIRST_LOCAL_PORT

A datagram from each of COUNT consecutive ports, all sent before the first reply is read; the
datagram says its port. One line for each reply: LOCAL_PORT SOURCE SOURCE_PORT NAME DATAGRAM.
"""

import socket
import sys

address, port, count, first = sys.argv[1], *map(int, sys.argv[2:5])


def ask(local_port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind(("", local_port))
    sock.sendto(str(local_port).encode(), (address, port))
    return sock


for local, sock in {local: ask(local) for local in range(first, first + count)}.items():
    reply, (source, source_port) = sock.recvfrom(65535)
    print(local, source, source_port, reply.decode())
