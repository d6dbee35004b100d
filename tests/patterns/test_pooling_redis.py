"""Connections to Redis are bounded, waited for no longer than its time-out, and counted."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from chassis.config.settings import RedisSettings
from chassis.pooling import create_redis, create_shared_redis
from holdfast_local.ports import free_port
from prometheus_client import REGISTRY
from proxying import listening
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from waiting import eventually


async def test_redis_is_waited_for_no_longer_than_its_time_out(redis_settings: RedisSettings) -> None:
    impatient = create_redis(redis_settings.model_copy(update={"max_connections": 1}), timeout=0.05)
    try:
        async with asyncio.timeout(2):
            with pytest.raises(RedisTimeoutError):  # the server says nothing
                await impatient.blpop(["nothing"], timeout=0)
            async with impatient.client():
                with pytest.raises(RedisConnectionError):  # the only connection is in use
                    await impatient.ping()
            assert await impatient.ping()
    finally:
        await impatient.aclose()


@pytest.fixture
def port_that_takes_nobody() -> Iterator[int]:
    """Its queue is full, and the system drops what else knocks: as a firewall does, or a machine that is gone."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield port


async def test_a_connection_that_is_not_taken_is_given_up_at_the_time_out(
    redis_settings: RedisSettings, port_that_takes_nobody: int
) -> None:
    settings = redis_settings.model_copy(update={"port": port_that_takes_nobody})
    pooled, shared = create_redis(settings, timeout=0.05), create_shared_redis(settings, timeout=0.05)
    for redis in (pooled, shared):
        async with asyncio.timeout(5):
            with pytest.raises((RedisTimeoutError, TimeoutError)):
                await redis.ping()
        await redis.aclose()


async def test_a_command_that_fails_is_not_sent_again(redis_settings: RedisSettings) -> None:
    """Whoever asks decides on that, and knows how much time is left: retries in two layers multiply."""
    commands: list[bytes] = []

    async def hear_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands.append(await reader.read(65_536))
        writer.close()

    async with listening(hear_and_hang_up) as port:
        settings = redis_settings.model_copy(update={"port": port})
        pooled, shared = create_redis(settings, timeout=5), create_shared_redis(settings, timeout=5)
        for redis in (pooled, shared):
            with pytest.raises(RedisConnectionError):
                await redis.ping()
            await redis.aclose()
    assert len(commands) == 2


async def test_a_redis_pool_tells_of_its_connections(redis_settings: RedisSettings) -> None:
    def told(metric: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"db_client_connection_{metric}", {"pool": "measured", **labels}) or 0

    redis = create_redis(redis_settings.model_copy(update={"max_connections": 2}), timeout=0.5, pool="measured")
    try:
        await redis.ping()
        assert (told("count", state="used"), told("count", state="idle")) == (0, 1)
        async with redis.client(), redis.client():
            assert (told("count", state="used"), told("count", state="idle")) == (2, 0)
            waiting = asyncio.create_task(redis.ping())
            await asyncio.sleep(0)
            assert told("pending_requests") == 1
            with pytest.raises(RedisConnectionError):
                await waiting
        assert (told("count", state="used"), told("count", state="idle")) == (0, 2)
        assert (told("max"), told("timeouts_total"), told("pending_requests")) == (2, 1, 0)
        assert told("wait_time_seconds_count") == 4
    finally:
        await redis.aclose()


async def test_a_redis_that_is_away_is_no_time_out_of_the_pool(redis_settings: RedisSettings) -> None:
    redis = create_redis(redis_settings.model_copy(update={"port": free_port()}), timeout=0.05, pool="gone")
    with pytest.raises(RedisConnectionError):
        await redis.ping()
    assert REGISTRY.get_sample_value("db_client_connection_timeouts_total", {"pool": "gone"}) == 0
    assert REGISTRY.get_sample_value("db_client_connection_count", {"pool": "gone", "state": "used"}) == 0
    await redis.aclose()


async def test_the_connection_that_commands_share_counts_as_used_while_it_is_open(
    redis_settings: RedisSettings,
) -> None:
    def told(metric: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"db_client_connection_{metric}", {"pool": "shared", **labels})

    shared = create_shared_redis(redis_settings.model_copy(update={"max_connections": 2}), timeout=5, pool="shared")
    assert (told("count", state="used"), told("max"), told("pending_requests")) == (0, 3, 0)
    first = [asyncio.create_task(shared.ping()) for _ in range(3)]
    await asyncio.sleep(0)
    assert told("pending_requests") == 3
    await asyncio.gather(*first)
    await shared.ping()  # it waits for nothing
    assert (told("pending_requests"), told("wait_time_seconds_count")) == (0, 3)
    assert told("count", state="used") == 1
    async with shared.pipeline() as pipeline:
        await pipeline.ping().execute()
        assert told("count", state="used") == 1
        assert told("count", state="idle") == 1
    await shared.aclose()

    async def is_gone() -> bool:
        return told("count", state="used") == 0

    await eventually(is_gone)
