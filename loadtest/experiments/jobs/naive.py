"""The welcome mail as people really send it: answer first, and let a task in this process do the rest."""

import asyncio
from collections.abc import Awaitable, Callable


class InProcessTasks:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """After the commit, so that nobody is welcomed who has not been signed up."""

        async def run() -> None:
            await work()

        task = asyncio.create_task(run())
        self._tasks.add(task)  # or the loop may forget it half-way: that much most people know
        task.add_done_callback(self._tasks.discard)
