"""Ctrl-C and SIGTERM cancel the work, so that it cleans up; a second one cancels its cleaning up, which then kills."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

EXIT_STOPPED = 128 + signal.SIGINT
"""Of a run that had an end and did not come to it, as a shell reports Ctrl-C."""


async def cancelled_by_signals[T](work: Coroutine[Any, Any, T]) -> T:
    """What the work returns. Raises CancelledError once it was stopped and has cleaned up."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` and `&` mean it
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task
