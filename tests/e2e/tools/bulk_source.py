"""bulk_source.py SOURCE ADDRESS STREAM_PORT DATAGRAM_PORT: uploads to bulk_sink.py, all of it at once.

Four streams of 4 MiB, and two sources of datagrams whose sizes come in runs; ends with an error unless every
digest in the answers is right.
"""

import hashlib
import random
import socket
import sys
import threading

source, address, stream_port, datagram_port = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
wrong = []


def upload(seed):
    content = random.Random(seed).randbytes(4 << 20)
    with socket.create_connection((address, stream_port), 60, (source, 0)) as stream:
        stream.sendall(content)
        stream.shutdown(socket.SHUT_WR)
        answer = stream.recv(64, socket.MSG_WAITALL).decode()
    if answer != hashlib.sha256(content).hexdigest():
        wrong.append(f"stream {seed}: {answer}")


def send_datagrams(seed):
    chance = random.Random(seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.settimeout(0.5)
        for number in range(60):
            sizes = [size for _ in range(4) for size in [chance.choice([40, 300, 1200])] * chance.randrange(1, 9)]
            sizes[-1] -= chance.randrange(2)
            heads = [f"{number} {position} {len(sizes)} ".encode() for position in range(len(sizes))]
            datagrams = [head + chance.randbytes(size - len(head)) for head, size in zip(heads, sizes)]
            digest = hashlib.sha256(b"".join(datagrams)).hexdigest()
            # A machine that is busy may lose some: they are sent again.
            for _ in range(60):
                for datagram in datagrams:
                    sock.sendto(datagram, (address, datagram_port))
                try:
                    answer = sock.recv(100).decode()
                    while answer != digest:
                        answer = sock.recv(100).decode()
                    break
                except TimeoutError:
                    continue
            else:
                wrong.append(f"datagrams {seed}, round {number}")


work = [threading.Thread(target=upload, args=(seed,)) for seed in range(4)]
work += [threading.Thread(target=send_datagrams, args=(seed,)) for seed in range(2)]
for thread in work:
    thread.start()
for thread in work:
    thread.join()
sys.exit("\n".join(wrong) or None)
