"""A watchdog for the event loop: a process whose loop stands still says where, and ends.

A handler that blocks the loop for good takes all others with it: no heartbeat, no probe answered, no signal heard.
Where nobody asks `/livez`, nobody would end it. The interpreter's own timer does: it is a thread that needs no lock, so
it also ends a regular expression or a library that never lets go.
"""

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.background import beside

TURNS = 4
"""Times within the limit that the timer is set back."""


@asynccontextmanager
async def watching(limit: float) -> AsyncIterator[None]:
    """While the block runs, a loop that stands still for `limit` seconds writes every thread's stack to standard error
    and ends the process with exit code 1.
    """
    try:
        async with beside(_beat(limit), name="watchdog"):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _beat(limit: float) -> None:
    while True:
        faulthandler.dump_traceback_later(limit, exit=True)
        await asyncio.sleep(limit / TURNS)
