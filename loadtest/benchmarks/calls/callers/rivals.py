"""The same call inside tenacity and pybreaker, as their pages show it, with what the standard library has for the rest:
fallback(retry(breaker(bulkhead(timeout(call))))). No metric, no line, no span, no budget, no deadline.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pybreaker
from measuring import CHARGE, Call, main
from tenacity import retry, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Call]:
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=15)
    bulkhead = asyncio.Semaphore(16)
    async with aiohttp.ClientSession() as session:

        @retry(
            retry=retry_if_exception_type((aiohttp.ClientError, TimeoutError)),
            stop=stop_after_attempt(3) | stop_after_delay(7),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            reraise=True,
        )
        async def charge() -> object:
            with breaker.calling():
                async with (
                    bulkhead,
                    asyncio.timeout(2),
                    session.post(
                        f"{url}/charges", data=orjson.dumps(CHARGE), headers={"Content-Type": "application/json"}
                    ) as answer,
                ):
                    answer.raise_for_status()
                    parsed: object = orjson.loads(await answer.read())
                    return parsed

        async def call() -> object:
            try:
                return await charge()
            except (aiohttp.ClientError, TimeoutError, pybreaker.CircuitBreakerError):
                return {"id": "none"}

        yield call


if __name__ == "__main__":
    main(opened)
