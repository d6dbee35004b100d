"""Waiting for what another process or task will do, without guessing how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest


async def eventually[T](look: Callable[[], Awaitable[T]], *, seconds: float = 15) -> T:
    """The first truthy answer; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := await look():
            return answer
        await asyncio.sleep(0.01)
    pytest.fail(f"did not happen within {seconds:g} s")
