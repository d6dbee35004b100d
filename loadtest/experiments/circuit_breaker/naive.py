"""The call people really write: a session and a time-out."""

from collections.abc import Mapping

import aiohttp


class NaiveClient:
    def __init__(self, urls: Mapping[str, str], *, timeout: float) -> None:
        self._urls = urls
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout)
        )

    async def call(self, which: str, path: str) -> bool:
        """Whether there was an answer."""
        try:
            async with self._session.get(self._urls[which] + path) as answer:
                answer.raise_for_status()
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        await self._session.close()
