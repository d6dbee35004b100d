"""A watchdog for the event loop: a process whose loop stands still says where, and ends.

A handler that blocks the loop for good takes all others with it: no heartbeat, no probe answered, no signal heard.
Where nothing calls `/livez`, the process would stay. The interpreter's own timer ends it: it is a thread that needs no
lock, so it also ends a regular expression or a library that never lets go.
"""

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.process.background import supervised

TURNS = 4
"""Times within the limit that the timer is set back."""


@asynccontextmanager
async def watching(limit: float) -> AsyncIterator[None]:
    """While the block runs, a loop that stands still for `limit` seconds writes every thread's stack to standard error
    and ends the process with exit code 1.

    The timer stays set after the block: the process then has `limit` seconds to end.
    """

    async def beat() -> None:
        while True:
            set_timer(limit)
            await asyncio.sleep(limit / TURNS)

    async with supervised(beat, name="watchdog"):
        yield


def set_timer(limit: float) -> None:
    """From now on the process has `limit` seconds until the next call, or until it ends."""
    faulthandler.dump_traceback_later(limit, exit=True)
