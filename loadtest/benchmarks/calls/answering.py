"""The called side: an HTTP server that reads each request to its end and answers 200 with a small JSON body at once.

In a process of its own, with as little work per request as Python allows. Prints its port, then serves until it ends.
"""

import asyncio
from typing import Any

import uvloop

ANSWER = b'{"id": "ch_1", "status": "pending", "object_version": 1, "amount": 12898, "currency": "EUR"}'
_BYTES = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + str(len(ANSWER)).encode() + b"\r\n\r\n"
) + ANSWER


class _Connection(asyncio.Protocol):
    _buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) >= length:
            self._buffer = b""
            self._transport.write(_BYTES)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
