"""What the TCP proxies of the tests share: a port, and a connection passed on in both directions until one ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from holdfast_local.ports import LOOPBACK


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """The port on which `serve` is given each connection; all are closed when the block ends."""
    server = await asyncio.start_server(serve, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        server.close_clients()


async def pass_on(*directions: Coroutine[Any, Any, None], ends: tuple[asyncio.StreamWriter, ...]) -> None:
    """Until one direction is over; then the other one is cut off, too."""
    pumps = [asyncio.create_task(direction) for direction in directions]
    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    for pump in pumps:
        pump.cancel()
    for end in ends:
        end.close()
