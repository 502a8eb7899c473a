"""odd_service.py MANNER ADDRESS PORT: a TCP service that behaves oddly.

error    answers every request with HTTP status 500
accept   prints "accepted" for every connection that accept() returns, and closes it
full     accepts nothing, and has room for one connection only
garbage  answers with bytes that are no HTTP, and more of them as long as it can
alert    answers with a TLS alert
hello    answers with the beginning of a ServerHello
endless  answers with 100 MB
trickle  answers with one byte a second
redirect answers with a redirection to itself
records  answers with TLS records of every type, with lengths that no record has
"""

import socket
import sys
import threading
import time

ANSWERS = {
    "error": b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "garbage": b"\x00\xff" * 4096,
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "hello": b"\x16\x03\x03\x00\x5a\x02\x00\x00\x56\x03\x03",
    "endless": b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + bytes(100_000_000),
    "trickle": b"HTTP/1.1 200 OK\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "records": bytes(range(256)) + b"\x16\x03\x03\xff\xff" * 4096,
}


def serve(manner, connection):
    try:
        if connection.recv(4096):
            if manner == "trickle":
                for byte in ANSWERS[manner]:
                    connection.sendall(bytes([byte]))
                    time.sleep(1)
            connection.sendall(ANSWERS[manner])
            while manner == "garbage":
                connection.sendall(ANSWERS[manner])
        connection.close()
    except OSError:
        pass


manner, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(0 if manner == "full" else 64)
    print("listening", flush=True)
    if manner == "full":
        threading.Event().wait()
    while True:
        connection, _ = listener.accept()
        if manner == "accept":
            print("accepted", flush=True)
            connection.close()
        else:
            threading.Thread(target=serve, args=(manner, connection), daemon=True).start()
