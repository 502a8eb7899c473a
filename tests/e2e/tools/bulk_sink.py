"""bulk_sink.py ADDRESS STREAM_PORT DATAGRAM_PORT: reads streams and datagrams.

Each stream is answered by the digest of what came, at its end. Datagrams are "ROUND POSITION COUNT" and
filling; once COUNT different ones of a ROUND have come, their digest in the order of their positions is the
answer to the last of them.
"""

import hashlib
import socket
import sys
import threading

address, stream_port, datagram_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def read_stream(stream):
    digest = hashlib.sha256()
    while piece := stream.recv(1 << 16):
        digest.update(piece)
    stream.sendall(digest.hexdigest().encode())
    stream.close()


def read_datagrams(sock):
    rounds = {}
    while True:
        payload, client = sock.recvfrom(65535)
        number, position, count = map(int, payload.split(b" ", 3)[:3])
        datagrams = rounds.setdefault((client, number), {})
        datagrams[position] = payload
        if len(datagrams) == count:
            whole = b"".join(datagrams[index] for index in range(count))
            sock.sendto(hashlib.sha256(whole).hexdigest().encode(), client)


datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((address, datagram_port))
threading.Thread(target=read_datagrams, args=(datagrams,), daemon=True).start()
streams = socket.create_server((address, stream_port))
print("listening", flush=True)
while True:
    threading.Thread(target=read_stream, args=(streams.accept()[0],), daemon=True).start()
