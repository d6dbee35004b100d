"""The call and nothing else: aiohttp, the body as JSON, the answer parsed. No time-out, no metric, no line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
from measuring import CHARGE, Call, main


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Call]:
    async with aiohttp.ClientSession() as session:

        async def call() -> object:
            async with session.post(
                f"{url}/charges", data=orjson.dumps(CHARGE), headers={"Content-Type": "application/json"}
            ) as answer:
                parsed: object = orjson.loads(await answer.read())
                return parsed

        yield call


if __name__ == "__main__":
    main(opened)
