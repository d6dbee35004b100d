"""Many callers share one round trip to Redis, and nothing that happens to one of them is another's business."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from chassis.config.settings import RedisSettings
from chassis.fast.shared_redis import SharedRedis
from chassis.pooling import create_shared_redis
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from waiting import eventually

TIMEOUT = 0.3


class Sent:
    """What is written to the connection, write by write."""

    def __init__(self, shared: SharedRedis) -> None:
        self.writes: list[bytes] = []
        assert shared._link
        self._transport = shared._link._transport
        shared._link._transport = self  # type: ignore[assignment]

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.fixture
async def shared(redis: Redis, redis_settings: RedisSettings) -> AsyncIterator[SharedRedis]:
    client = create_shared_redis(redis_settings, timeout=TIMEOUT)
    await client.ping()  # connected: what is measured below is no handshake
    yield client
    await client.aclose()


async def paused(redis: Redis, seconds: float) -> None:
    """Redis reads, and answers nobody until the time is over."""
    await redis.client_pause(round(seconds * 1000))


async def failures(*asked: asyncio.Task[Any]) -> list[BaseException | None]:
    await asyncio.wait(asked)
    return [one.exception() for one in asked]


async def test_what_is_asked_in_one_turn_goes_out_at_once_and_each_gets_its_own_answer(shared: SharedRedis) -> None:
    sent = Sent(shared)
    assert await asyncio.gather(*(shared.incrby("n", n) for n in range(1, 51))) == [
        n * (n + 1) // 2 for n in range(1, 51)
    ]
    assert len(sent.writes) == 1


async def test_a_thousand_commands_at_once_are_answered_in_order(shared: SharedRedis) -> None:
    assert await asyncio.gather(*(shared.incr("n") for _ in range(1200))) == list(range(1, 1201))


async def test_what_is_asked_meanwhile_does_not_wait_for_the_answers(shared: SharedRedis, redis: Redis) -> None:
    sent = Sent(shared)
    await paused(redis, 0.1)
    first = asyncio.create_task(shared.get("x"))
    await eventually(lambda: asyncio.sleep(0, bool(sent.writes)))
    later = [asyncio.create_task(shared.incr("n")) for _ in range(10)]
    await eventually(lambda: asyncio.sleep(0, len(sent.writes) == 2))
    assert not first.done()
    assert await asyncio.gather(first, *later) == [None, *range(1, 11)]


async def test_an_error_of_one_command_is_raised_for_its_caller_alone(shared: SharedRedis) -> None:
    await shared.set("text", "x")
    before, wrong, after = await asyncio.gather(
        shared.incr("n"), shared.incr("text"), shared.incr("n"), return_exceptions=True
    )
    assert (before, after) == (1, 2)
    assert isinstance(wrong, ResponseError)


async def test_what_cannot_be_sent_fails_its_caller_alone(shared: SharedRedis) -> None:
    wrong, right = await asyncio.gather(shared.set("x", object()), shared.incr("n"), return_exceptions=True)  # type: ignore[arg-type]
    assert isinstance(wrong, RedisError)
    assert right == 1


async def test_a_caller_that_goes_harms_nobody_and_what_it_had_not_sent_is_not_sent(
    shared: SharedRedis, redis: Redis
) -> None:
    leaves, stays = (asyncio.create_task(shared.incr(key)) for key in ("left", "stayed"))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays == 1
    assert leaves.cancelled()
    assert await redis.get("left") is None


async def test_a_caller_that_goes_while_its_batch_is_under_way_harms_nobody(shared: SharedRedis, redis: Redis) -> None:
    sent = Sent(shared)
    await paused(redis, 0.1)
    leaves, stays = (asyncio.create_task(shared.incr("n")) for _ in range(2))
    await eventually(lambda: asyncio.sleep(0, bool(sent.writes)))
    leaves.cancel()
    assert await stays == 2


async def test_redis_that_hangs_costs_each_caller_the_time_out_and_answers_the_next_ones(
    shared: SharedRedis, redis: Redis
) -> None:
    await paused(redis, TIMEOUT * 2)  # a caller that waited longer would get an answer
    asked = [asyncio.create_task(shared.get("x")) for _ in range(100)]
    assert all(isinstance(error, RedisError | TimeoutError) for error in await failures(*asked))

    async def answers() -> bool:
        try:
            return await shared.ping()
        except (RedisError, TimeoutError):
            return False

    await eventually(answers)


async def test_a_broken_connection_fails_what_was_sent_over_it_and_is_opened_again(
    shared: SharedRedis, redis: Redis
) -> None:
    sent = Sent(shared)
    asked = [asyncio.create_task(shared.execute_command("BLPOP", "nothing", 0)) for _ in range(3)]
    await eventually(lambda: asyncio.sleep(0, bool(sent.writes)))

    async def is_cut() -> bool:
        blocked = [client["id"] for client in await redis.client_list() if client["cmd"] == "blpop"]
        for number in blocked:
            await redis.client_kill_filter(_id=number)
        return bool(blocked)

    await eventually(is_cut)
    assert all(isinstance(error, RedisConnectionError) for error in await failures(*asked))
    assert await shared.incr("n") == 1


async def connections(redis: Redis) -> int:
    return len(await redis.client_list())


async def test_who_is_not_let_in_leaves_no_connection_behind(redis: Redis, redis_settings: RedisSettings) -> None:
    before = await connections(redis)
    wrong = redis_settings.model_copy(update={"password": SecretStr("of yesterday")})
    client = create_shared_redis(wrong, timeout=TIMEOUT)
    for _ in range(5):
        with pytest.raises(ResponseError):
            await client.ping()

    async def are_gone() -> bool:
        return await connections(redis) <= before

    await eventually(are_gone)
    await client.aclose()


async def test_a_script_that_redis_has_forgotten_is_sent_again(shared: SharedRedis, redis: Redis) -> None:
    script = shared.register_script("return redis.call('INCR', KEYS[1])")
    await redis.script_flush()
    assert await asyncio.gather(*(script(keys=["n"]) for _ in range(5))) == [1, 2, 3, 4, 5]


async def test_closing_waits_for_what_was_asked(redis: Redis, redis_settings: RedisSettings) -> None:
    client = create_shared_redis(redis_settings, timeout=5)
    asked = asyncio.create_task(client.incr("n"))
    await asyncio.sleep(0)
    await client.aclose()
    assert await asked == 1


@pytest.mark.parametrize("stays", [True, False], ids=["its caller waits", "its caller has gone"])
async def test_a_connection_that_is_being_opened_while_the_client_is_closed_is_closed_too(
    redis: Redis, redis_settings: RedisSettings, *, stays: bool
) -> None:
    before = await connections(redis)
    client = create_shared_redis(redis_settings, timeout=5)
    asked = asyncio.create_task(client.incr("n"))
    await asyncio.sleep(0)
    if not stays:
        asked.cancel()
    await client.aclose()
    await asyncio.wait([asked])
    assert asked.cancelled() or asked.result() == 1

    async def is_gone() -> bool:
        return await connections(redis) <= before

    await eventually(is_gone)
