"""An invalidation that Redis has not taken: its process reads at the origin, and tries until Redis takes it."""

import asyncio
import os
import signal
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from caching_origin import BOOK, DEARER, Origin, count, entries_key, product_cache, until
from chassis.caching import pending
from chassis.caching.pending import PendingInvalidations
from chassis.caching.store import STORE_ERRORS
from chassis.config.settings import RedisSettings
from chassis.pooling import create_shared_redis
from holdfast_local.valkey import temporary_valkey
from pydantic import SecretStr
from waiting import eventually


async def test_a_key_is_loaded_from_the_origin_until_redis_has_taken_its_invalidation() -> None:
    origin, name = Origin(), f"test-{uuid4().hex}"
    async with temporary_valkey() as server:
        settings = RedisSettings(port=server.port, password=SecretStr(urlsplit(server.dsn).password or ""))
        redis = create_shared_redis(settings, timeout=0.2)
        cache = product_cache(redis, name)
        assert await cache.get_or_load("book", origin.load) == BOOK
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(STORE_ERRORS):
                await redis.ping()  # the connection is given up: what follows is not kept for later
            origin.product = DEARER
            with pytest.raises(STORE_ERRORS):
                await cache.invalidate("book")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert await cache.get_or_load("book", origin.load) == DEARER
        await until(lambda: "book" not in cache._pending)
        assert await redis.exists(entries_key(name)) == 0
        before = count(name, "bypass")
        assert [await cache.get_or_load("book", origin.load) for _ in range(3)] == [DEARER] * 3
        assert count(name, "bypass") == before
        await cache.close()
        await redis.aclose()


class Deleting:
    """What deletes keys: it waits at a gate, and fails as long as it is to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def __call__(self, _key: str) -> None:
        self.calls += 1
        await self.may_go.wait()
        if self.error is not None:
            raise self.error


async def test_an_invalidation_that_begins_while_an_older_one_is_on_its_way_is_still_pending() -> None:
    deleting = Deleting()
    keys = PendingInvalidations(deleting, retention=60)
    keys.add("book")
    deleting.may_go.clear()
    applying = asyncio.create_task(keys.apply("book"))
    await asyncio.sleep(0)
    keys.add("book")
    deleting.may_go.set()
    await applying
    assert "book" in keys
    await keys.apply("book")
    assert "book" not in keys


@pytest.mark.parametrize("error", [TimeoutError("away"), RuntimeError("the handler is closed")])
async def test_it_is_tried_again_whatever_it_fails_of(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(pending, "RETRY_SECONDS", 0.01)
    deleting = Deleting()
    keys = PendingInvalidations(deleting, retention=60)
    deleting.error = error
    keys.add("book")
    with pytest.raises(type(error)):
        await keys.apply("book")
    await until(lambda: deleting.calls > 3)
    deleting.error = None
    await until(lambda: "book" not in keys)
    await keys.close()


async def test_one_that_is_cancelled_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RETRY_SECONDS", 0.01)
    deleting = Deleting()
    keys = PendingInvalidations(deleting, retention=60)
    deleting.may_go.clear()
    keys.add("book")
    applying = asyncio.create_task(keys.apply("book"))
    await asyncio.sleep(0)
    applying.cancel()
    await asyncio.wait([applying])
    assert "book" in keys
    deleting.may_go.set()
    await until(lambda: "book" not in keys)


async def test_a_key_is_forgotten_once_redis_has_forgotten_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "RETRY_SECONDS", 0.01)
    deleting = Deleting()
    deleting.error = TimeoutError("away")
    keys = PendingInvalidations(deleting, retention=0.05)
    keys.add("book")
    with pytest.raises(TimeoutError):
        await keys.apply("book")

    async def is_forgotten() -> bool:
        return "book" not in keys

    await eventually(is_forgotten)
