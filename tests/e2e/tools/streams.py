"""streams.py ADDRESS PORT COUNT FIRST_LOCAL_PORT PAUSE

COUNT TCP connections from consecutive local ports to a service that says its name and then echoes.
Each sends a stream of random bytes (its local port is the seed), a piece of at most 2000 bytes every
PAUSE seconds, and compares every byte that comes back.

Prints "open: LOCAL_PORT NAME ..." when all services have said their names. On SIGUSR1 prints "echoed
N", the bytes until now; on SIGUSR2 "round" once every stream has had one more piece back. On SIGTERM each
stream sends a last piece, ends its side, and waits for what is missing and the other side's end. Then one
line for each: LOCAL_PORT NAME BYTES END, where END is "whole" or what went wrong.
"""

import asyncio
import random
import signal
import sys

address, port, count, first = sys.argv[1], *map(int, sys.argv[2:5])
pause = float(sys.argv[5])
MOST_AWAITED = 64_000


class Stream(asyncio.Protocol):
    def __init__(self, local_port):
        self.local_port, self.random = local_port, random.Random(local_port)
        self.name, self.greeting = "", b""
        self.awaited, self.echoed, self.pieces = bytearray(), 0, []
        self.rounds, self.problem, self.ending = 0, None, False
        self.greeted, self.ended = (asyncio.get_running_loop().create_future() for _ in range(2))

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not self.name:
            self.greeting += data
            name, newline, data = self.greeting.partition(b"\n")
            if not newline:
                return
            self.name = name.decode()
            self.greeted.set_result(None)
        if not self.awaited.startswith(data):
            self.problem = self.problem or f"differs_within_{len(data)}_bytes_after_{self.echoed}"
        del self.awaited[: len(data)]
        self.echoed += len(data)
        while self.pieces and self.pieces[0] <= self.echoed:
            del self.pieces[0]
            self.rounds += 1

    def connection_lost(self, error):
        if error:
            self.problem = self.problem or type(error).__name__
        elif not self.ending:
            self.problem = self.problem or "ended_by_the_service"
        elif self.awaited:
            self.problem = self.problem or f"{len(self.awaited)}_bytes_missing"
        for future in (self.greeted, self.ended):
            if not future.done():
                future.set_result(None)

    def send(self):
        piece = self.random.randbytes(self.random.randrange(1, 2000))
        self.awaited += piece
        self.pieces.append(self.echoed + len(self.awaited))
        self.transport.write(piece)

    async def run(self):
        await asyncio.sleep(self.random.uniform(0, pause))  # not all at the same moment
        while not self.ending and not self.ended.done():
            if len(self.awaited) < MOST_AWAITED:
                self.send()
            await asyncio.sleep(pause)

    def end(self):
        self.ending = True
        if not self.ended.done():
            self.send()
            self.transport.write_eof()


async def announce_round(streams):
    # A piece that is on its way already does not count.
    due = [stream.rounds + len(stream.pieces) + 1 for stream in streams]
    while any(stream.rounds < rounds for stream, rounds in zip(streams, due)):
        if broken := [f"{stream.local_port} {stream.problem}" for stream in streams if stream.problem]:
            print("round impossible:", *broken, flush=True)
            return
        await asyncio.sleep(0.01)
    print("round", flush=True)


async def main():
    loop, stop, tasks = asyncio.get_running_loop(), asyncio.Event(), set()

    def connect(local_port):
        return loop.create_connection(
            lambda: Stream(local_port), address, port, local_addr=("0.0.0.0", local_port)
        )

    opened = await asyncio.gather(*map(connect, range(first, first + count)))
    streams = [stream for _, stream in opened]
    await asyncio.gather(*(stream.greeted for stream in streams))

    def report_progress():
        print("echoed", sum(stream.echoed for stream in streams), flush=True)

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, report_progress)
    loop.add_signal_handler(signal.SIGUSR2, lambda: tasks.add(loop.create_task(announce_round(streams))))
    tasks.update(loop.create_task(stream.run()) for stream in streams)
    print("open:", *(f"{stream.local_port} {stream.name}" for stream in streams), flush=True)
    await stop.wait()
    for stream in streams:
        stream.end()
    await asyncio.gather(*(stream.ended for stream in streams))
    for stream in streams:
        print(stream.local_port, stream.name, stream.echoed, stream.problem or "whole")


asyncio.run(main())
