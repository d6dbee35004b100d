import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from backends import RealServer
from captured_logs import captured_logs
from chassis.config.settings import DatabaseSettings
from chassis.pooling import Database, wake_after_commit, wakeup
from chassis.pooling.wakeup import Wakeups
from chassis.process import background
from pydantic import SecretStr
from waiting import eventually


class CardDeclined(Exception):
    pass


@pytest.fixture
async def listener(database_settings: DatabaseSettings) -> AsyncIterator[asyncpg.Connection]:
    connection = await wakeup.connect(database_settings, application_name="listener")
    yield connection
    await connection.close()


async def heard(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)
    event.clear()


async def test_a_notification_reaches_every_process_that_waits(database_settings: DatabaseSettings) -> None:
    async with (
        Wakeups(database_settings, application_name="one") as one,
        Wakeups(database_settings, application_name="two") as two,
    ):
        channel = 'jobs_"Mail-2"; END'  # a queue's name is quoted
        events = [one.subscribe(channel), two.subscribe(channel)]
        for event in events:
            await heard(event)  # at first for what was committed before it listened
        one.notify(channel)
        for event in events:
            await heard(event)


async def test_a_commit_wakes_and_a_rollback_does_not(database_settings: DatabaseSettings) -> None:
    notified: list[str] = []
    database = Database(database_settings, pool="wakeup", application_name="test", notify=notified.append)

    async def fail() -> None:
        async with database.transaction() as session:
            wake_after_commit(session, "rolled back")
            raise CardDeclined

    with pytest.raises(CardDeclined):
        await fail()
    async with database.transaction() as session:
        wake_after_commit(session, "committed")
        assert notified == []
    assert notified == ["committed"]
    await database.close()


async def test_many_commits_at_once_are_one_notification(
    database_settings: DatabaseSettings, listener: asyncpg.Connection
) -> None:
    notifications: list[str] = []
    first, end = asyncio.Event(), asyncio.Event()

    def count(*_: object) -> None:
        notifications.append("jobs")
        first.set()

    await listener.add_listener("jobs", count)
    await listener.add_listener("end", lambda *_: end.set())
    async with Wakeups(database_settings, application_name="test") as wakeups:
        for _ in range(1000):
            wakeups.notify("jobs")
        await heard(first)
        wakeups.notify("end")
        await heard(end)
    assert notifications == ["jobs"]


async def test_a_process_that_reads_the_rows_at_once_wakes_itself_and_sends_no_notification(
    database_settings: DatabaseSettings, listener: asyncpg.Connection
) -> None:
    notifications: list[str] = []
    end = asyncio.Event()
    await listener.add_listener("jobs", lambda *_: notifications.append("jobs"))
    await listener.add_listener("end", lambda *_: end.set())
    reads_now = True
    async with Wakeups(database_settings, application_name="test") as wakeups:
        event = wakeups.subscribe("jobs", reads_now=lambda: reads_now)
        await heard(event)  # at first for what was committed before it listened
        wakeups.notify("jobs")
        assert event.is_set()
        wakeups.notify("end")
        await heard(end)
        assert notifications == []
        reads_now = False
        wakeups.notify("jobs")
        await eventually(lambda: is_equal(notifications, ["jobs"]))


async def is_equal(one: list[str], other: list[str]) -> bool:
    return one == other


async def test_a_lost_connection_is_opened_again_and_what_was_missed_is_made_up_for(
    database_settings: DatabaseSettings, postgres: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.01)
    admin = await asyncpg.connect(postgres.dsn)
    async with Wakeups(database_settings, application_name="to-be-cut-off") as wakeups:
        event = wakeups.subscribe("jobs")
        await heard(event)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'to-be-cut-off'"
        )
        await heard(event)
        wakeups.notify("jobs")
        await heard(event)
    await admin.close()


async def test_what_is_pending_at_the_end_is_still_sent(
    database_settings: DatabaseSettings, listener: asyncpg.Connection
) -> None:
    event = asyncio.Event()
    await listener.add_listener("jobs", lambda *_: event.set())
    async with Wakeups(database_settings, application_name="test") as wakeups:
        await heard(wakeups.subscribe("other"))
        wakeups.notify("jobs")
    await heard(event)


async def test_a_refused_password_is_written_and_wake_ups_come_back_with_the_right_one(
    database_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.01)
    current = SecretStr("of yesterday")
    with captured_logs() as logs:
        async with Wakeups(database_settings, application_name="test", passwords=lambda: (current,)) as wakeups:
            event = wakeups.subscribe("jobs")

            async def has_failed() -> bool:
                return bool(logs.of("background_task_failed"))

            await eventually(has_failed)
            assert background.failing()["wakeups"] == "InvalidPasswordError"
            current = database_settings.password
            await heard(event)
            wakeups.notify("jobs")
            await heard(event)
    line = logs.of("background_task_failed")[0]
    assert (line["level"], line["task"]) == ("warning", "wakeups")
    assert line["error"].startswith("InvalidPasswordError")


async def test_a_database_without_a_free_connection_is_come_back_to(
    database_settings: DatabaseSettings, postgres: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.01)
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f'ALTER DATABASE "{database_settings.name}" CONNECTION LIMIT 0')
    with captured_logs() as logs:
        async with Wakeups(database_settings, application_name="test") as wakeups:
            event = wakeups.subscribe("jobs")

            async def has_failed() -> bool:
                return bool(logs.of("background_task_failed"))

            await eventually(has_failed)
            await admin.execute(f'ALTER DATABASE "{database_settings.name}" CONNECTION LIMIT -1')
            await heard(event)
    await admin.close()
    assert logs.of("background_task_failed")[0]["error"].startswith("TooManyConnectionsError")
