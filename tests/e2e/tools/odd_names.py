"""odd_names.py ADDRESS PORT: answers every DNS query with names that point at themselves."""

import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], int(sys.argv[2])))
    print("listening", flush=True)
    while True:
        query, client = server.recvfrom(2048)
        head = query[:2] + b"\x84\x00" + query[4:6] + b"\x00\x01\x00\x00\x00\x00"
        circle = b"\xc0\x0c\x00\x06\x00\x01"
        server.sendto(head + circle + circle + b"\x00\x00\x00\x00\x00\x02\xc0\x0c", client)
