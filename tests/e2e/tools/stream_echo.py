"""stream_echo.py NAME ADDRESS PORT: a TCP service that says NAME and a newline, then echoes all it gets."""

import asyncio
import sys

name, address, port = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3])


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(name + b"\n")

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, error):
        if error:
            print("lost:", error, file=sys.stderr, flush=True)


async def main():
    server = await asyncio.get_running_loop().create_server(Echo, address, port, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main())
