"""Two installations on one Redis: each keeps to its own prefix, and the second one with the same prefix is refused."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from backends import FreshDatabase
from chassis.caching import Cache
from chassis.config.settings import CacheSettings, DatabaseSettings, OutboxSettings, RateLimitSettings, RedisSettings
from chassis.events.consumer import Consumer
from chassis.events.inbox import Received
from chassis.events.outbox import Event, publish
from chassis.events.relay import Relay
from chassis.pooling import Database, Session, create_redis, installation, names_of
from chassis.pooling.installation import ForeignPrefix, claim, claim_at_start, installation_id, keep_claim
from chassis.pooling.wakeup import Wakeups
from chassis.rate_limiting import Policy, RateLimiter
from pydantic import TypeAdapter
from redis.asyncio import Redis
from service_process import OrdersInstallation
from sqlalchemy import text
from waiting import eventually

pytestmark = pytest.mark.timeout(25)

QUICK = OutboxSettings(batch=10, poll_interval=0.05)


class OrderPlaced(Event, type="order.placed"):
    pass


class Installation:
    """A service's worker: a database, a relay, and a consumer that remembers which events it was given."""

    def __init__(self, settings: DatabaseSettings, redis: Redis) -> None:
        self.redis = redis
        self.mailed: list[str] = []
        self.stopping = asyncio.Event()
        self.database = Database(settings, pool="test", application_name="test")
        self._settings = settings

    async def place(self, aggregate: str) -> None:
        async with self.database.transaction() as session:
            await publish(session, OrderPlaced(), stream="orders", aggregate_id=aggregate, aggregate_version=1)

    async def run(self) -> None:
        async def mail(_session: Session, received: Received[OrderPlaced]) -> None:
            self.mailed.append(received.aggregate_id)

        consumer = Consumer(
            self.redis, self.database, QUICK, group="orders", streams=["orders"], handlers={OrderPlaced: mail}
        )
        async with (
            Wakeups(self._settings, application_name="test") as wakeups,
            asyncio.TaskGroup() as tasks,
        ):
            relay = Relay(self._settings, self.redis, QUICK, service="orders", wakeups=wakeups)
            tasks.create_task(relay.run(self.stopping))
            tasks.create_task(consumer.run(self.stopping))

    async def aclose(self) -> None:
        await self.database.close()
        await self.redis.aclose()


@pytest.fixture
async def ours(
    database_settings: DatabaseSettings, redis_settings: RedisSettings, redis: Redis
) -> AsyncIterator[Installation]:
    del redis  # it is empty
    async with aclosing(Installation(database_settings, create_redis(redis_settings, timeout=5))) as made:
        yield made


@pytest.fixture
async def theirs(fresh_database: FreshDatabase, redis_settings: RedisSettings) -> AsyncIterator[Installation]:
    settings = redis_settings.model_copy(update={"prefix": "theirs"})
    async with aclosing(Installation(await fresh_database(""), create_redis(settings, timeout=5))) as made:
        async with made.database.transaction() as session:  # the tests' databases are copies of one
            await session.execute(text("UPDATE installation SET id = gen_random_uuid()"))
        yield made


async def test_installations_with_prefixes_of_their_own_get_their_own_events(
    ours: Installation, theirs: Installation
) -> None:
    await ours.place("our order")
    await theirs.place("their order")

    async def both_have_mailed() -> bool:
        return bool(ours.mailed) and bool(theirs.mailed)

    async with asyncio.TaskGroup() as tasks:
        for each in (ours, theirs):
            tasks.create_task(each.run())
        await eventually(both_have_mailed)
        ours.stopping.set()
        theirs.stopping.set()
    assert (ours.mailed, theirs.mailed) == (["our order"], ["their order"])


async def test_all_that_is_kept_in_redis_begins_with_the_prefix(ours: Installation, redis: Redis) -> None:
    await ours.place("a")
    running = asyncio.create_task(ours.run())

    async def has_mailed() -> bool:
        return bool(ours.mailed)

    await eventually(has_mailed)
    limiter = RateLimiter(ours.redis, RateLimitSettings, service="orders")
    await limiter.check("somebody", Policy("default", "standard", rate=1, burst=10))
    cache = Cache(ours.redis, TypeAdapter(int), CacheSettings(), name="orders:number")
    assert await cache.get_or_load("a", lambda: asyncio.sleep(0, 1)) == 1
    ours.stopping.set()
    await running
    keys = {key.decode() for key in await redis.keys("*")}
    assert len(keys) == 6, keys
    assert {key.partition(":")[0] for key in keys} == {"test"}


@pytest.mark.parametrize("part", ["consumer", "relay"])
async def test_a_worker_on_the_prefix_of_another_installation_ends_and_names_the_setting(
    ours: Installation, theirs: Installation, redis_settings: RedisSettings, part: str
) -> None:
    await claim(ours.redis, await installation_id(ours.database), service="orders")
    await theirs.place("a")
    async with (
        aclosing(create_redis(redis_settings, timeout=5)) as redis,
        Wakeups(theirs._settings, application_name="test") as wakeups,
    ):
        run = (
            Relay(theirs._settings, redis, QUICK, service="orders", wakeups=wakeups).run
            if part == "relay"
            else Consumer(redis, theirs.database, QUICK, group="orders", streams=["orders"], handlers={}).run
        )
        with pytest.RaisesGroup(ForeignPrefix) if part == "relay" else pytest.raises(ForeignPrefix) as raised:
            await asyncio.wait_for(run(asyncio.Event()), 10)
        assert "HOLDFAST_REDIS__PREFIX" in str(getattr(raised.value, "exceptions", [raised.value])[0])
        assert await redis.xlen("test:orders") == 0


async def test_a_process_on_the_prefix_of_another_installation_does_not_start(
    ours: Installation, theirs: Installation
) -> None:
    await claim_at_start(ours.redis, ours.database, service="orders")
    await claim_at_start(ours.redis, ours.database, service="orders")  # started again
    with pytest.raises(ForeignPrefix) as raised:
        await claim_at_start(ours.redis, theirs.database, service="orders")
    (problem,) = raised.value.problems
    assert problem == (
        "HOLDFAST_REDIS__PREFIX: in this Redis 'test' belongs to another installation"
        f" ({await installation_id(ours.database)}); choose another prefix, or delete test:owner:orders if that"
        " installation is gone"
    )


@pytest.mark.timeout(90)
@pytest.mark.parametrize("command", ["api", "worker"])
async def test_a_command_that_is_refused_ends_with_one_line_that_names_the_setting(
    ours: Installation,
    fresh_database: FreshDatabase,
    redis_settings: RedisSettings,
    tmp_path: Path,
    command: str,
) -> None:
    await claim(ours.redis, "another", service="orders")
    ended = await OrdersInstallation.create(tmp_path, await fresh_database("orders"), redis_settings).run(command)
    assert ended.code == 1
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert "HOLDFAST_REDIS__PREFIX" in lines[-1]["reason"]


async def test_an_emptied_redis_belongs_to_the_installation_that_runs_again_and_refuses_the_other_still(
    ours: Installation, theirs: Installation, redis: Redis
) -> None:
    running = asyncio.create_task(ours.run())
    owner = names_of(redis).owner("orders")

    async def is_owned() -> bool:
        return await redis.get(owner) is not None

    await eventually(is_owned)
    await redis.flushall()
    await eventually(is_owned)
    with pytest.raises(ForeignPrefix):
        await claim_at_start(ours.redis, theirs.database, service="orders")
    assert not running.done()
    ours.stopping.set()
    await running


async def test_a_process_that_started_without_redis_stops_when_it_finds_the_prefix_taken(
    ours: Installation, theirs: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "CLAIM_EVERY_SECONDS", 0.01)
    await claim(ours.redis, await installation_id(ours.database), service="orders")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    keeping = asyncio.create_task(keep_claim(ours.redis, theirs.database, service="orders"))
    async with asyncio.timeout(10):
        await stopping.wait()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert not keeping.done()
    keeping.cancel()


async def test_a_redis_or_a_database_that_is_away_keeps_no_process_from_starting(
    database: Database, redis_settings: RedisSettings, database_settings: DatabaseSettings
) -> None:
    away = create_redis(redis_settings.model_copy(update={"port": 1}), timeout=1)
    await claim_at_start(away, database, service="orders")
    nowhere = Database(database_settings.model_copy(update={"port": 1}), pool="test", application_name="test")
    reachable = create_redis(redis_settings, timeout=5)
    await claim_at_start(reachable, nowhere, service="orders")
    for each in (away, reachable):
        await each.aclose()
    await nowhere.close()
