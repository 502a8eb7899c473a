"""change_backends.py SOCKET VIP COUNT ADDRESS...: so many changes of weights and states, one after the other.

Prints how many were refused."""

import http.client
import json
import random
import socket
import sys
import urllib.parse


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])


def main():
    vip, count, addresses = sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    connection = Connection("director")
    choice = random.Random(7)
    refused = 0
    for number in range(count):
        address = addresses[number % len(addresses)]
        change = {"weight": choice.randint(1, 9)}
        # The first one always takes new flows; known flows stay with those that drain.
        if address != addresses[0]:
            change["state"] = choice.choice(["draining", None])
        query = urllib.parse.urlencode({"vip": vip, "address": address})
        connection.request("PATCH", f"/v1/backends?{query}", json.dumps(change))
        answer = connection.getresponse()
        answer.read()
        refused += answer.status != 200
    print(refused)


main()
