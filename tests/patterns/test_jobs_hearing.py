"""How a worker hears of new jobs, and how many statements it sends to find them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from chassis.config.settings import DatabaseSettings, JobSettings
from chassis.jobs import RunningJob, enqueue
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups, connect
from jobs_stage import TURNS, Ship, add, reaches, running
from waiting import eventually

PATIENT = JobSettings(poll_interval=3600, concurrency=4)


class Notifications:
    """The notifications that reach other processes on the channels of the queue and of the test's end."""

    def __init__(self, wakeups: Wakeups, connection: asyncpg.Connection) -> None:
        self._wakeups = wakeups
        self._connection = connection
        self._heard: list[str] = []

    async def listen(self) -> None:
        for channel in ("jobs_default", "end"):
            await self._connection.add_listener(channel, self._note)

    async def sent(self) -> list[str]:
        """The channels of the notifications so far."""
        self._wakeups.notify("end")

        async def has_ended() -> bool:
            return "end" in self._heard

        await eventually(has_ended)
        return [channel for channel in self._heard if channel != "end"]

    def _note(self, _connection: object, _pid: int, channel: str, _payload: object) -> None:
        self._heard.append(channel)


@pytest.fixture
async def notifications(wakeups: Wakeups, database_settings: DatabaseSettings) -> AsyncIterator[Notifications]:
    connection = await connect(database_settings, application_name="listener")
    heard = Notifications(wakeups, connection)
    await heard.listen()
    yield heard
    await connection.close()


@pytest.fixture
async def notifying(wakeups: Wakeups, database_settings: DatabaseSettings) -> AsyncIterator[Database]:
    database = Database(database_settings, pool="notifying", application_name="test", notify=wakeups.notify)
    yield database
    await database.close()


async def test_a_worker_with_a_free_slot_takes_the_jobs_of_its_process_without_a_notification(
    notifying: Database, wakeups: Wakeups, notifications: Notifications
) -> None:
    done = asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        done.set()

    async with running(notifying, wakeups, {Ship: ship}, PATIENT):
        for _ in range(3):
            done.clear()
            job_id = await add(notifying, Ship())
            await asyncio.wait_for(done.wait(), 5)
            await reaches(notifying, job_id, "gone")
        assert await notifications.sent() == []


async def test_a_worker_whose_slots_do_not_suffice_wakes_the_others(
    notifying: Database, wakeups: Wakeups, notifications: Notifications
) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        started.set()
        await release.wait()

    async with running(notifying, wakeups, {Ship: ship}, PATIENT.model_copy(update={"concurrency": 1})):
        async with notifying.transaction() as session:
            await enqueue(session, Ship())
            await enqueue(session, Ship())
        await asyncio.wait_for(started.wait(), 5)
        assert await notifications.sent() == ["jobs_default"]
        release.set()


async def test_a_worker_that_stops_leaves_new_jobs_to_the_others(
    notifying: Database, wakeups: Wakeups, notifications: Notifications
) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        pass

    async with running(notifying, wakeups, {Ship: ship}, PATIENT):
        pass
    await add(notifying, Ship())
    assert await notifications.sent() == ["jobs_default"]


@asynccontextmanager
async def counted_turns(database: Database, settings: DatabaseSettings) -> AsyncIterator[list[str]]:
    """The statements of `TURNS` that are sent through the pool during the block."""
    turns = {DRIVER_STATEMENTS[name].sql for name in TURNS}
    sent: list[str] = []

    def note(query: asyncpg.connection.LoggedQuery) -> None:
        if query.query in turns:
            sent.append(query.query)

    async with AsyncExitStack() as stack:
        for _ in range(settings.pool_size):
            connection = await stack.enter_async_context(database.driver())
            connection.add_query_logger(note)
    yield sent


async def test_the_end_of_a_job_makes_no_claim_in_a_queue_that_was_found_empty(
    notifying: Database, wakeups: Wakeups, database_settings: DatabaseSettings
) -> None:
    async def ship(job: RunningJob, _payload: Ship) -> None:
        async with notifying.transaction() as session:
            await job.complete_in(session)

    async with counted_turns(notifying, database_settings) as turns, running(notifying, wakeups, {Ship: ship}, PATIENT):
        job_id = await add(notifying, Ship())
        await reaches(notifying, job_id, "gone")
        before = len(turns)
        for _ in range(5):
            job_id = await add(notifying, Ship())
            await reaches(notifying, job_id, "gone")
        assert len(turns) - before == 5
