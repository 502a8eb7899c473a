"""filtered.py NAMESPACE CASES: which packets pass a packet filter of the real kernel.

Runs on the peer; NAMESPACE is the other host's, whose filter it is. CASES holds JSON: a list of
{"nft": TEXT} or {"legacy": TEXT}. Per case it loads the text there, sends packets to it and from it,
and prints a line of JSON: what the tools print of the rules, and per packet the source address with
which it arrived, or null.
"""

import ctypes
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys

# Seconds. A packet that passes is there before its sender goes on, unless the machine is very busy.
QUIET = 0.03

PEER, HOST, VIP = "10.0.0.1", "10.0.0.2", "203.0.113.10"

# From the peer to the host, then from the host to the peer: protocol, source, destination port.
PACKETS_IN = [(4, PEER, 0), (17, PEER, 53), (17, PEER, 4500), (6, PEER, 80), (6, "192.0.2.7", 22)]
PACKETS_OUT = [(17, HOST, 9), (17, VIP, 9), (6, VIP, 9)]


# Legacy rules stay beside those of nft.
NOTHING = "".join(f"*{table}\n:OUTPUT ACCEPT\nCOMMIT\n" for table in ("mangle", "raw", "nat"))
NOTHING += "*filter\n:INPUT ACCEPT\nCOMMIT\n"


def listeners():
    sockets = []
    for protocol in (4, 6, 17):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def packet(number, protocol, source, destination, port):
    ports = struct.pack("!HH", 20000 + number, port)
    if protocol == 17:
        body = ports + struct.pack("!HH", 8, 0)
    elif protocol == 6:
        body = ports + struct.pack("!IIBBH", 1, 0, 0x50, 2, 1000)
        pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", 6, 20)
        body += struct.pack("!HH", checksum(pseudo + body), 0)
    else:
        body = bytes(20)
    length = 20 + len(body)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, length, number, 0, 64, protocol, 0) + addresses + body


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def send(sock, whole):
    try:
        sock.sendto(whole, (socket.inet_ntoa(whole[16:20]), 0))
    except PermissionError:
        pass  # dropped at output


def collect(listening, wanted):
    """Source addresses by identification, until nothing has come for a while."""
    arrived = {}
    while len(arrived) < len(wanted):
        ready, _, _ = select.select(listening, [], [], QUIET)
        if not ready:
            break
        for receiver in ready:
            got = receiver.recv(2048)
            number, = struct.unpack("!H", got[4:6])
            if number in wanted:
                arrived[number] = socket.inet_ntoa(got[12:16])
    return [arrived.get(number) for number in wanted]


def tool(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr}\n{text}")
    return done.stdout


def load_nft(text):
    """Leaves out the rules that nft finds contradictory (`tcp dport 1 udp dport 2`)."""
    lines = ["flush ruleset"] + text.splitlines()
    while True:
        done = subprocess.run(["nft", "-f", "-"], input="\n".join(lines), capture_output=True, text=True)
        if done.returncode == 0:
            return
        place = re.search(r":(\d+):\d+-\d+: Error: .*(conflicting|Unsupported)", done.stderr)
        if not place:
            sys.exit(f"nft: {done.stderr}\n{text}")
        del lines[int(place[1]) - 1]


def main():
    namespace, cases = sys.argv[1:]
    os.environ["XTABLES_LOCKFILE"] = cases + ".lock"  # the usual one is the whole machine's
    peer_out, peer_in = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW), listeners()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(os.open(namespace, os.O_RDONLY), 0) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    host_out, host_in = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW), listeners()
    first = 1
    for case in json.load(open(cases)):
        result = {"nft": "", "legacy": "", "arrived": []}
        if "nft" in case:
            tool("iptables-legacy-restore", text=NOTHING)
            load_nft(case["nft"])
            result["nft"] = tool("nft", "--json", "list", "ruleset")
        else:
            tool("nft", "flush", "ruleset")
            tool("iptables-legacy-restore", text=case["legacy"])
            result["legacy"] = tool("iptables-legacy-save", "-c")
        wanted = []
        ways = [(peer_out, HOST, each) for each in PACKETS_IN]
        ways += [(host_out, PEER, each) for each in PACKETS_OUT]
        for sock, destination, (protocol, source, port) in ways:
            wanted.append(len(wanted) + first)
            send(sock, packet(wanted[-1], protocol, source, destination, port))
        first += len(wanted)
        result["arrived"] = collect(host_in + peer_in, wanted)
        print(json.dumps(result))


main()
