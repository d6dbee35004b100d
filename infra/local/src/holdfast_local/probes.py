"""Asking a process whether it is ready."""

import asyncio
from contextlib import suppress

from holdfast_local.ports import LOOPBACK
from holdfast_local.programs import Probe

_TIMEOUT_SECONDS = 2.0  # a readiness check that takes longer is a no


def ready_over_http(port: int) -> Probe:
    """A probe that says yes when `GET /readyz` on the loopback address answers 200."""

    async def answers() -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await _get_readyz(port)
        return False

    return answers


async def _get_readyz(port: int) -> bool:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(f"GET /readyz HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nConnection: close\r\n\r\n".encode())
        status_line = await reader.readline()
        return status_line.split(b" ")[1:2] == [b"200"]
    finally:
        writer.close()
