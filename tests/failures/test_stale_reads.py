"""A cancel that was acknowledged while Valkey stood still is what every later read says."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from backends import FreshDatabase
from chassis.config.settings import RedisSettings
from holdfast_local.valkey import EmbeddedValkey, temporary_valkey
from pydantic import SecretStr
from service_process import CALLER, OrdersInstallation
from waiting import eventually

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 1}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}


@contextmanager
def standing_still(valkey: EmbeddedValkey) -> Iterator[None]:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


@pytest.fixture
async def valkey() -> AsyncIterator[EmbeddedValkey]:
    async with temporary_valkey() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, headers=CALLER) as client:
        yield client


@pytest.fixture
async def installations(
    tmp_path: Path, fresh_database: FreshDatabase, valkey: EmbeddedValkey
) -> list[OrdersInstallation]:
    """Of two APIs and a worker, which share a database and a Valkey."""
    database = await fresh_database("orders")
    redis = RedisSettings(port=valkey.port, password=SecretStr(urlsplit(valkey.dsn).password or ""))
    found = [OrdersInstallation.create(tmp_path / str(n), database, redis) for n in range(3)]
    for one in found:
        one.set("redis__timeout", "0.2")
    return found


async def status(client: httpx.AsyncClient, api: OrdersInstallation, order_id: str) -> str:
    answer = await client.get(f"{api.url}/v1/orders/{order_id}")
    assert answer.status_code == 200
    found: str = answer.json()["status"]
    return found


async def placed_and_cached(client: httpx.AsyncClient, *apis: OrdersInstallation) -> str:
    answer = await client.post(f"{apis[0].url}/v1/orders", json=ORDER, headers={"Idempotency-Key": "first"})
    assert answer.status_code == 201
    order_id: str = answer.json()["id"]
    assert {await status(client, api, order_id) for api in (*apis, *apis)} == {"pending"}
    return order_id


async def cancel(client: httpx.AsyncClient, api: OrdersInstallation, order_id: str) -> None:
    """On a connection to Valkey that is being opened anew: nothing that is sent now is kept for when it goes on."""
    for _ in range(3):
        await client.get(f"{api.url}/v1/products/rope")
    answer = await client.post(f"{api.url}/v1/orders/{order_id}/cancel")
    assert answer.status_code == 202


async def test_the_api_that_acknowledged_it_never_answers_older_and_another_no_longer_than_a_moment(
    installations: list[OrdersInstallation], valkey: EmbeddedValkey, client: httpx.AsyncClient
) -> None:
    first, second, _ = installations
    async with first.running("api"), second.running("api"):
        order_id = await placed_and_cached(client, first, second)
        with standing_still(valkey):
            await cancel(client, first, order_id)
            assert await status(client, first, order_id) == "cancelling"
        for _ in range(20):
            assert await status(client, first, order_id) == "cancelling"

        async def second_knows() -> bool:
            return await status(client, second, order_id) == "cancelling"

        await eventually(second_knows, seconds=10)
        assert {await status(client, api, order_id) for api in (first, second) * 5} == {"cancelling"}


async def test_an_api_that_is_killed_before_valkey_answers_leaves_the_invalidation_to_the_worker(
    installations: list[OrdersInstallation], valkey: EmbeddedValkey, client: httpx.AsyncClient
) -> None:
    first, second, of_the_worker = installations
    async with second.running("api"), AsyncExitStack() as stack:
        async with first.running("api") as dying:
            order_id = await placed_and_cached(client, first, second)
            await stack.enter_async_context(of_the_worker.running("worker"))
            with standing_still(valkey):
                await cancel(client, first, order_id)
                dying.process.kill()
                await dying.process.wait()

        async def second_knows() -> bool:
            await asyncio.sleep(0.05)
            return await status(client, second, order_id) == "cancelling"

        await eventually(second_knows, seconds=10)
