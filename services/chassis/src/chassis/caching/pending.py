"""Invalidations that Redis has not confirmed yet. Until Redis confirms the invalidation of a key, this process reads
the value from the origin (usually the database).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from chassis.caching.store import STORE_ERRORS
from chassis.logging import get_logger

log = get_logger(__name__)

RETRY_SECONDS = 0.2
"""Seconds between two attempts to delete an invalidated key while Redis fails. After Redis recovers, another process
may read the old value until the next attempt.
"""


class PendingInvalidations:
    """The invalidated keys that `delete` has not deleted from Redis yet, each with the time of its latest invalidation.

    A key is pending for at most `retention` seconds. After this time, the old value has expired in Redis anyway.
    """

    def __init__(self, delete: Callable[[str], Awaitable[None]], *, retention: float) -> None:
        self._delete = delete
        self._retention = retention
        self._since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._since

    def add(self, key: str) -> None:
        """Mark the key as pending. The key stays pending until `apply` has deleted the key from Redis."""
        self._since[key] = time.monotonic()

    async def apply(self, key: str) -> None:
        """Delete a pending key from Redis.

        If the deletion fails, this method raises the error and starts a background task, which repeats the deletion
        until it succeeds.
        """
        since = self._since[key]
        try:
            await self._delete(key)
        except BaseException:
            if self._task is None:
                self._task = asyncio.create_task(self._apply_all())
            raise
        # If the key was invalidated again during this deletion, it stays pending: Redis may have deleted it before the
        # second change was committed.
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
