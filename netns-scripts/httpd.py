#!/usr/bin/env python3
"""The service behind the VIP in the labs: a small, real HTTP/1.1 server.

    httpd.py NAME ADDRESS [PORT]        (port 80)

GET /         NAME and a newline: who answered
GET /bytes/N  N bytes, byte i is i % 251 (a prime, so that a lost or swapped segment shows)
PUT anything  the SHA-256 of the body in hex and a newline

It binds to ADDRESS (the VIP, not the wildcard), so that every reply carries the VIP as its
source; the address may be added later. It prints one line when it listens.
"""

import hashlib
import re
import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler

IP_FREEBIND = 15  # linux/in.h; not in every Python's socket module
PERIOD = bytes(range(251)) * 261  # 65511 bytes, a multiple of the period


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    # Headers and body are two writes; Nagle would hold back the second until the first is acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self):
        path = self.path.partition("?")[0]
        size = re.fullmatch(r"/bytes/([0-9]{1,12})", path)
        if size:
            self.send_pattern(int(size[1]))
        elif path == "/":
            self.send_text(self.server.name)
        else:
            self.send_error(404)

    def do_PUT(self):
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length):
            self.close_connection = True  # where the body ends is unknown
            self.send_error(411)
            return
        digest, left = hashlib.sha256(), int(length)
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:  # the client went away in the middle of the body
                self.close_connection = True
                return
            digest.update(part)
            left -= len(part)
        self.send_text(digest.hexdigest())

    def send_text(self, text):
        body = text.encode() + b"\n"
        self.start(len(body))
        self.wfile.write(body)

    def send_pattern(self, size):
        self.start(size)
        for _ in range(size // len(PERIOD)):
            self.wfile.write(PERIOD)
        self.wfile.write(PERIOD[: size % len(PERIOD)])

    def start(self, length):
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_args):
        pass


class Server(socketserver.ThreadingTCPServer):
    """Not http.server.HTTPServer: that one asks DNS for its own name, and a lab has no DNS."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, name, address):
        self.name = name
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def handle_error(self, request, client_address):
        # A client that resets its connection is no news; everything else is a bug to be seen.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    name, address = sys.argv[1:3]
    port = int(sys.argv[3]) if len(sys.argv) == 4 else 80
    with Server(name, (address, port)) as server:
        print(f"{name} listening on {address}:{port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
