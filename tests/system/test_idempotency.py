"""A hundred requests with one key, at three processes: one order, and whoever is answered gets the same bytes."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from backends import FreshDatabase
from chassis.config.settings import RedisSettings
from chassis.pooling import Database
from redis.asyncio import Redis
from service_process import CALLER, OrdersInstallation
from sqlalchemy import text

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}
_OF_THIS_ANSWER = {"x-request-id", "ratelimit", "ratelimit-policy", "date"}


async def test_a_hundred_identical_requests_to_three_processes_have_one_effect(
    tmp_path: Path, fresh_database: FreshDatabase, redis_settings: RedisSettings, redis: Redis
) -> None:
    settings = await fresh_database("orders")
    installations = [OrdersInstallation.create(tmp_path / str(n), settings, redis_settings) for n in range(3)]
    async with AsyncExitStack() as stack:
        for installation in installations:
            installation.set("rate_limit__rate_per_second", "1000")
            installation.set("rate_limit__burst", "1000")
            await stack.enter_async_context(installation.running("api"))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20, headers=CALLER))
        database = Database(settings, pool="test", application_name="test")
        stack.push_async_callback(database.close)

        async def ask(number: int, key: str = "only-one") -> httpx.Response:
            url = f"{installations[number % 3].url}/v1/orders"
            return await client.post(url, json=ORDER, headers={"Idempotency-Key": key})

        await asyncio.gather(*(ask(number, key=f"warm-{number}") for number in range(3)))
        answers = await asyncio.gather(*map(ask, range(100)))
        assert {answer.status_code for answer in answers} <= {201, 409}
        first, *others = [answer for answer in answers if answer.status_code == 201]
        others.append(await ask(1))
        for other in others:
            assert other.content == first.content
            assert _kept(other) == _kept(first)
        for refused in (answer for answer in answers if answer.status_code == 409):
            assert refused.json()["error"]["code"] == "IDEMPOTENCY_KEY_IN_PROGRESS"
            assert refused.headers["Retry-After"]
        query = text("SELECT count(*) FROM orders WHERE idempotency_key = 'only-one'")
        async with database.read() as session:
            assert await session.scalar(query) == 1
            assert await session.scalar(text("SELECT count(*) FROM job")) == 3 + 1
            assert await session.scalar(text("SELECT count(*) FROM outbox")) == 3 + 1


def _kept(answer: httpx.Response) -> dict[str, str]:
    """The headers that are part of the answer."""
    return {name: value for name, value in answer.headers.items() if name not in _OF_THIS_ANSWER}
