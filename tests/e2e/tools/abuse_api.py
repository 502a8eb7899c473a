"""Abusive clients of the API: PATH VIP BACKEND. Prints "abusing" once all are there."""

import random
import socket
import sys

PATH, VIP, BACKEND = sys.argv[1:]


def connect():
    client = socket.socket(socket.AF_UNIX)
    client.connect(PATH)
    client.settimeout(60)
    return client


def answer(client):
    """What it is answered, as far as the other end lets it be read."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def send(client, data):
    try:
        client.sendall(data)
    except (ConnectionError, TimeoutError):
        pass


def main():
    idle = [connect() for _ in range(1000)]
    slow = connect()
    send(slow, b"GET /v1/sta")
    print("abusing", flush=True)

    big = connect()
    head = f"PATCH /v1/backends?vip={VIP}&address={BACKEND} HTTP/1.1\r\nHost: a\r\n"
    send(big, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(160):
        send(big, b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    said = answer(big)
    assert said.startswith(b"HTTP/1.1 413") or not said, said

    noise = random.Random(7)
    for _ in range(200):
        client = connect()
        send(client, noise.randbytes(2000) + b"\r\n\r\n")
        said = answer(client)
        assert not said or said.startswith(b"HTTP/1.1 4"), said
        client.close()

    for client in [*idle, slow]:
        said = answer(client)
        assert not said or said.startswith(b"HTTP/1.1 4"), said


main()
