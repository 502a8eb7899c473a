"""connect_many.py COUNT ADDRESS PORT: opens so many connections at once, and gives those up that are not answered in two seconds."""

import select
import socket
import sys
import time

sockets = []
for _ in range(int(sys.argv[1])):
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex((sys.argv[2], int(sys.argv[3])))
    sockets.append(connection)
deadline = time.monotonic() + 2
waiting = list(sockets)
while waiting and time.monotonic() < deadline:
    _, ready, _ = select.select([], waiting, [], max(0, deadline - time.monotonic()))
    waiting = [connection for connection in waiting if connection not in ready]
print(len(sockets) - len(waiting))
