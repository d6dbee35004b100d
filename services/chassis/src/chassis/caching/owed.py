"""Invalidations that Redis has not taken yet: while one is owed, this process reads its key at the origin."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from chassis.caching.store import STORE_ERRORS
from chassis.logging import get_logger

log = get_logger(__name__)

RETRY_SECONDS = 0.2
"""Between two tries while Redis is away: for so long after its return another process may read the old value."""


class Owed:
    """Keys by the time of their latest invalidation, until `delete` has deleted them.

    After `kept` seconds a key is forgotten: Redis itself has forgotten by then whatever was stored before.
    """

    def __init__(self, delete: Callable[[str], Awaitable[None]], *, kept: float) -> None:
        self._delete = delete
        self._kept = kept
        self._since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._since

    def add(self, key: str) -> None:
        """From now on, until a `pay` that succeeds."""
        self._since[key] = time.monotonic()

    async def pay(self, key: str) -> None:
        """Delete a key that is owed. Raises what `delete` does, and then tries again until it succeeds."""
        since = self._since[key]
        try:
            await self._delete(key)
        except BaseException:
            if self._task is None:
                self._task = asyncio.create_task(self._pay_all())
            raise
        # An invalidation that began meanwhile is still owed: this delete may have come before its commit.
        if self._since.get(key) is since:
            del self._since[key]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _pay_all(self) -> None:
        while self._since:
            await asyncio.sleep(RETRY_SECONDS)
            for key, since in list(self._since.items()):
                if time.monotonic() - since > self._kept:
                    self._since.pop(key, None)
                elif key in self._since:
                    try:
                        await self.pay(key)
                    except STORE_ERRORS:
                        break
                    except Exception as error:
                        log.exception("cache_invalidation_failed", key=key, error=repr(error))
                        break
        self._task = None
