"""Invalidations that Redis has not confirmed yet. Until then, this process reads their keys at the origin."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from chassis.caching.store import STORE_ERRORS
from chassis.logging import get_logger

log = get_logger(__name__)

RETRY_SECONDS = 0.2
"""Pause between tries while Redis is away. Another process may read the old value for that long after Redis returns."""


class PendingInvalidations:
    """Keys with the time of their latest invalidation, until `delete` has deleted them from Redis.

    After `retention` seconds a key is dropped: by then Redis itself has expired the old value.
    """

    def __init__(self, delete: Callable[[str], Awaitable[None]], *, retention: float) -> None:
        self._delete = delete
        self._retention = retention
        self._since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._since

    def add(self, key: str) -> None:
        """The key is pending from now on, until an `apply` succeeds."""
        self._since[key] = time.monotonic()

    async def apply(self, key: str) -> None:
        """Delete a pending key from Redis. Raises the error of `delete`, and then retries in the background."""
        since = self._since[key]
        try:
            await self._delete(key)
        except BaseException:
            if self._task is None:
                self._task = asyncio.create_task(self._apply_all())
            raise
        # A newer invalidation of the key stays pending, because this delete may have run before that one's commit.
        if self._since.get(key) is since:
            del self._since[key]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _apply_all(self) -> None:
        while self._since:
            await asyncio.sleep(RETRY_SECONDS)
            for key, since in list(self._since.items()):
                if time.monotonic() - since > self._retention:
                    self._since.pop(key, None)
                elif key in self._since:
                    try:
                        await self.apply(key)
                    except STORE_ERRORS:
                        break
                    except Exception as error:
                        log.exception("cache_invalidation_failed", key=key, error=repr(error))
                        break
        self._task = None
