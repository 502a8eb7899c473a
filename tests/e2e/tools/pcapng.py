"""pcapng.py FILE: prints the packets of a capture, one a line: DIRECTION HEX COMMENT.

Written from draft-ietf-opsawg-pcapng, for little-endian files. Checks what readers rely on: lengths
at both ends of each block, link type RAW, timestamps of nanoseconds that are recent.
"""

import struct
import sys
import time


def options(data):
    found = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            break
        found[code] = data[4 : 4 + length]
        data = data[4 + length + -length % 4 :]
    return found


with open(sys.argv[1], "rb") as file:
    data = file.read()
DIRECTIONS = {1: "in", 2: "out"}
while data:
    kind, length = struct.unpack_from("<II", data)
    assert length % 4 == 0 and len(data) >= length, "a block is cut"
    assert struct.unpack_from("<I", data, length - 4)[0] == length
    body, data = data[8 : length - 4], data[length:]
    if kind == 0x0A0D0D0A:
        assert struct.unpack_from("<IHH", body) == (0x1A2B3C4D, 1, 0)
    elif kind == 1:
        assert struct.unpack_from("<H", body)[0] == 101
        found = options(body[8:])
        assert found[9] == b"\x09"
        assert found[2] == b"tunlb0"
    else:
        assert kind == 6, f"block of type {kind}"
        interface, high, low, captured, original = struct.unpack_from("<5I", body)
        assert (interface, captured) == (0, original)
        age = time.time() - (high << 32 | low) / 1e9
        assert 0 <= age < 120, f"captured {age} s ago"
        found = options(body[20 + captured + -captured % 4 :])
        direction = DIRECTIONS[struct.unpack("<I", found[2])[0]]
        print(direction, body[20 : 20 + captured].hex(), found[1].decode())
