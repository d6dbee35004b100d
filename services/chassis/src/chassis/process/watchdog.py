"""A watchdog for the event loop: if the loop is blocked for too long, the process prints the stack of every thread
and ends.

Code that blocks the loop stops everything else in the process: heartbeats, probes and signals. Without a liveness
probe, such a process would hang indefinitely. The watchdog uses Python's `faulthandler`, which ends the process from a
thread that does not need the interpreter's lock. So even code that never releases the interpreter's lock, such as a
slow regular expression, cannot prevent the end.
"""

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.process.background import supervised

TURNS = 4
"""A working event loop restarts the watchdog's timer this many times within the limit."""


@asynccontextmanager
async def watching(limit: float) -> AsyncIterator[None]:
    """While the block runs, end the process if its event loop is blocked for `limit` seconds.

    The process then writes the stack of every thread to standard error, and its exit code is 1. The timer stays set
    after the block, so the process must end within `limit` seconds after the block.
    """

    async def beat() -> None:
        while True:
            set_timer(limit)
            await asyncio.sleep(limit / TURNS)

    async with supervised(beat, name="watchdog"):
        yield


def set_timer(limit: float) -> None:
    """End the process in `limit` seconds, unless this function is called again before then."""
    faulthandler.dump_traceback_later(limit, exit=True)
