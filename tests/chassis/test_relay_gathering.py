"""Under load the relay gathers events, and one statement marks the last batch and reads the next."""

import pytest
from chassis.config.settings import DatabaseSettings, OutboxSettings
from chassis.events import relay
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups, connect
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from sqlalchemy import text
from test_outbox import place, relaying, streamed, wakeups
from waiting import eventually

__all__ = ["wakeups"]

PATIENT = OutboxSettings(poll_interval=3600)


def batches() -> float:
    """How often the relays of this process have called the script that publishes."""
    labels = {"operation": "send", "stream": "orders"}
    return REGISTRY.get_sample_value("messaging_client_operation_duration_seconds_count", labels) or 0


async def unmarked(database: Database) -> int:
    async with database.read() as session:
        return int(await session.scalar(text("SELECT count(*) FROM outbox WHERE published_at IS NULL")) or 0)


async def test_events_that_commit_while_the_relay_gathers_go_out_in_one_batch(
    database: Database,
    database_settings: DatabaseSettings,
    redis: Redis,
    wakeups: Wakeups,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "GATHER_SECONDS", 3)
    await place(database, "a", 1)
    async with relaying(database_settings, redis, wakeups, PATIENT):
        await streamed(redis, ("a", 1))
        before = batches()
        for version in range(2, 7):
            await place(database, "a", version)
        assert await unmarked(database) == 6  # the next read marks the first event, too
        await streamed(redis, *(("a", version) for version in range(1, 7)))
        assert batches() - before == 1
        assert await unmarked(database) == 5
    assert await unmarked(database) == 0


async def test_after_a_pause_an_event_goes_out_at_once_and_is_marked_without_another_event(
    database: Database, database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    notifying = Database(database_settings, pool="notifying", application_name="test", notify=wakeups.notify)
    await place(notifying, "a", 1)

    async def all_marked() -> bool:
        return await unmarked(database) == 0

    async with relaying(database_settings, redis, wakeups, PATIENT):
        for version in (1, 2, 3):
            if version > 1:
                await place(notifying, "a", version)
            await streamed(redis, *(("a", known) for known in range(1, version + 1)))
            await eventually(all_marked)
    await notifying.close()


async def test_the_leader_hears_of_its_own_events_without_a_notification(
    database_settings: DatabaseSettings, redis: Redis, wakeups: Wakeups
) -> None:
    notifying = Database(database_settings, pool="notifying", application_name="test", notify=wakeups.notify)
    heard: list[str] = []

    def note(_connection: object, _pid: int, channel: str, _payload: object) -> None:
        heard.append(channel)

    async def has_ended() -> bool:
        return "end" in heard

    listener = await connect(database_settings, application_name="listener")
    for channel in ("outbox", "end"):
        await listener.add_listener(channel, note)
    await place(notifying, "a", 1)
    async with relaying(database_settings, redis, wakeups, PATIENT):
        await streamed(redis, ("a", 1))
        wakeups.notify("end")
        await eventually(has_ended)
        heard.clear()
        await place(notifying, "a", 2)
        await streamed(redis, ("a", 1), ("a", 2))
        wakeups.notify("end")
        await eventually(has_ended)
    assert heard == ["end"]
    await listener.close()
    await notifying.close()
