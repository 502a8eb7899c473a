"""udp_ask.py ADDRESS PORT COUNT FIRST_LOCAL_PORT [LENGTH]

A datagram from each of COUNT consecutive ports, all sent before the first reply is read; the
datagram says its port, again and again up to LENGTH bytes, and may be fragmented. One line for
each reply: LOCAL_PORT SOURCE SOURCE_PORT NAME DATAGRAM.
"""

import socket
import sys

address, port, count, first = sys.argv[1], *map(int, sys.argv[2:5])
length = int(sys.argv[5]) if len(sys.argv) == 6 else 5
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0


def ask(local_port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind(("", local_port))
    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    datagram = str(local_port) * (length // 5 + 1)
    sock.sendto(datagram[:length].encode(), (address, port))
    return sock


for local, sock in {local: ask(local) for local in range(first, first + count)}.items():
    reply, (source, source_port) = sock.recvfrom(65535)
    print(local, source, source_port, reply.decode())
