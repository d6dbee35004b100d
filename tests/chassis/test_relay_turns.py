"""The leader of the highest term may publish, and no clock decides; the order of what its turns publish."""

import pytest
from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events.positions import Position
from chassis.events.relay import is_leader
from chassis.events.sending import Deposed, Sender
from chassis.pooling import Database
from chassis.pooling.installation import installation_id
from chassis.pooling.wakeup import Wakeups
from redis.asyncio import Redis
from sqlalchemy import text
from test_outbox import QUICK, place, relaying, streamed, wakeups
from waiting import eventually

__all__ = ["wakeups"]

pytestmark = pytest.mark.timeout(25)


async def term_in(redis: Redis) -> int:
    return int(await redis.get("test:orders:term") or 0)


async def send_as_leader_of(term: int, database: Database, redis: Redis) -> None:
    """What a relay does that had read its batch when it was stopped, and wakes."""
    async with database.read() as session:
        row = (await session.execute(text("SELECT stream, epoch::text, last_id FROM stream_position"))).one()
    sender = Sender(redis, service="orders", max_length=QUICK.stream_max_length)
    sender.term, sender.installation = term, await installation_id(database)
    await sender.send(Position(**row._mapping, repeat_after=None), ["{}"])


async def test_each_leader_has_a_higher_term_than_the_one_before(
    database_settings: DatabaseSettings, database: Database, redis: Redis, wakeups: Wakeups
) -> None:
    await place(database, "a", 1)
    terms: list[int] = []
    for version in (2, 3, 4):
        async with relaying(database_settings, redis, wakeups):
            await place(database, "a", version)
            await streamed(redis, *(("a", published) for published in range(1, version + 1)))
        terms.append(await term_in(redis))
    first, second, third = terms
    assert 0 < first < second < third


async def test_a_relay_of_an_earlier_term_is_refused_by_redis(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    """Also while the later leader has had nothing to publish: that one asks all the same."""
    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    earlier = await term_in(redis)
    async with relaying(database_settings, redis, wakeups):

        async def has_asked() -> bool:
            return await term_in(redis) > earlier

        await eventually(has_asked)
        with pytest.raises(Deposed):
            await send_as_leader_of(earlier, database, redis)
    await streamed(redis, ("a", 1))


async def test_a_term_from_a_clock_that_was_ahead_keeps_no_leader_from_publishing(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    """Or from a database that was set back meanwhile: who holds the lock takes a higher term than Redis knows."""
    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    ahead = 2**52
    await redis.set("test:orders:term", ahead)
    async with relaying(database_settings, redis, wakeups):
        await place(database, "a", 2)
        await streamed(redis, ("a", 1), ("a", 2))
        with pytest.raises(Deposed):
            await send_as_leader_of(ahead, database, redis)


async def test_a_relay_that_stops_publishes_what_was_committed_until_then(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    """Though it was not woken, and would not have looked for a minute."""
    leads = is_leader.labels(database_settings.name)

    async def is_at_rest() -> bool:
        async with database.read() as session:
            query = "SELECT repeat_after IS NULL AND last_id <> '' FROM stream_position"
            return bool(await session.scalar(text(query))) and bool(leads._value.get())

    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups, OutboxSettings(poll_interval=60)):
        await streamed(redis, ("a", 1))
        await eventually(is_at_rest)
        await place(database, "a", 2)
    await streamed(redis, ("a", 1), ("a", 2))


async def test_an_event_that_goes_out_again_keeps_its_first_date(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    """Else no row would ever be as old as its retention on a Redis that forgets each day."""
    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    async with database.transaction() as session:
        await session.execute(text("UPDATE outbox SET published_at = now() - interval '1 day'"))
    await redis.flushall()
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1))
    async with database.read() as session:
        assert await session.scalar(text("SELECT published_at < now() - interval '23 hours' FROM outbox"))


async def test_an_aggregates_events_go_out_in_order_also_while_others_are_repeated(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    """One that was written early, and committed late, has a lower number than all that was published meanwhile."""
    await place(database, "a", 1)
    await place(database, "a", 2)
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1), ("a", 2))
    await place(database, "late", 1)
    await place(database, "late", 2)
    async with database.transaction() as session:  # a relay died while it repeated, and had gone beyond the first
        await session.execute(
            text(
                "UPDATE stream_position"
                " SET repeat_after = (SELECT seq FROM outbox WHERE aggregate_id = 'late' AND aggregate_version = 1)"
            )
        )
    async with relaying(database_settings, redis, wakeups):
        await streamed(redis, ("a", 1), ("a", 2), ("late", 1), ("late", 2))
