"""parallel_get.py ADDRESS PORT COUNT FIRST_LOCAL_PORT

COUNT HTTP connections from consecutive local ports, all open before the first request. One line
for each: LOCAL_PORT STATUS BODY. The server closes first, so the local ports are free at the end.
"""

import socket
import sys

address, port, count, first = sys.argv[1], *map(int, sys.argv[2:5])
REQUEST = f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode()


def connection(local_port):
    sock = socket.socket()
    sock.settimeout(20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", local_port))
    sock.connect((address, port))
    return sock


def answer(sock):
    with sock.makefile("rb") as reply:
        head, _, body = reply.read().partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode(), body.decode().strip()


connections = {local: connection(local) for local in range(first, first + count)}
for sock in connections.values():
    sock.sendall(REQUEST)
for local, sock in connections.items():
    print(local, *answer(sock))
