"""udp_echo.py NAME ADDRESS PORT: answers every datagram with NAME, a space and the datagram."""

import socket
import sys

name, address, port = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind((address, port))
    print("listening", flush=True)
    while True:
        payload, client = sock.recvfrom(65535)
        sock.sendto(name + b" " + payload, client)
