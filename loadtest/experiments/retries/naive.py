"""The loops people really write. They differ in the wait; all of them go on as long as they may."""

import asyncio
from collections.abc import Callable

import aiohttp


class NaiveClient:
    """`retries` more tries after whatever went wrong, each `wait(n)` seconds after the one before."""

    def __init__(self, url: str, *, timeout: float, retries: int, wait: Callable[[int], float]) -> None:
        self._url = url
        self._retries = retries
        self._wait = wait
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout)
        )

    async def call(self, sent: Callable[[], object]) -> bool:
        """Whether an answer came in the end; `sent()` counts the attempts."""
        for attempt in range(1 + self._retries):
            if attempt:
                await asyncio.sleep(self._wait(attempt - 1))
            sent()
            try:
                async with self._session.get(f"{self._url}/work") as answer:
                    answer.raise_for_status()
                    await answer.read()
                    return True
            except (aiohttp.ClientError, TimeoutError):
                continue
        return False

    async def close(self) -> None:
        await self._session.close()
