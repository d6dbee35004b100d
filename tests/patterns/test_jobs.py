import asyncio
import json
import math
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest
from chassis.config.settings import DatabaseSettings, JobSettings
from chassis.errors import ApiError, DatabaseUnreachable, ErrorCode, HoldfastError, LeaseLost, PermanentJobError
from chassis.jobs import JobPayload, RunningJob, dead_letters, enqueue
from chassis.jobs.completion import Completions, settle
from chassis.jobs.dead_letters import Filter
from chassis.jobs.metrics import processed
from chassis.jobs.runner import JobRunner
from chassis.jobs.statements import DRIVER_STATEMENTS
from chassis.jobs.tending import DrainEstimate
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups
from chassis.retries import deadlines
from chassis.telemetry import current_traceparent, span
from jobs_stage import QUICK, TURN, TURNS, Ship, add, effect, find, reaches, running, status, worker
from jobs_worker import Hold
from sqlalchemy import Row, text
from waiting import eventually


class CardDeclined(Exception):
    pass


# Enqueueing


async def test_a_job_of_a_transaction_that_rolls_back_never_exists(database: Database) -> None:
    async def place_order() -> None:
        async with database.transaction() as session:
            await enqueue(session, Ship())
            raise CardDeclined

    with pytest.raises(CardDeclined):
        await place_order()
    async with database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM job")) == 0


async def test_a_waiting_job_keeps_a_twin_out_and_a_running_one_does_not(database: Database, wakeups: Wakeups) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        started.set()
        await release.wait()

    async with database.transaction() as session:
        assert await enqueue(session, Ship(), unique_key="order-1")
        assert not await enqueue(session, Ship(), unique_key="order-1")
    async with running(database, wakeups, {Ship: ship}):
        await started.wait()
        async with database.transaction() as session:
            assert await enqueue(session, Ship(), unique_key="order-1")
        release.set()


async def test_a_commit_wakes_the_worker_long_before_it_would_look(
    database_settings: DatabaseSettings, wakeups: Wakeups
) -> None:
    database = Database(database_settings, pool="woken", application_name="test", notify=wakeups.notify)
    done = asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        done.set()

    patient = JobSettings(poll_interval=3600)
    async with running(database, wakeups, {Ship: ship}, patient):
        for _ in range(5):
            done.clear()
            job_id = await add(database, Ship())
            await asyncio.wait_for(done.wait(), 5)
            await reaches(database, job_id, "gone")
    await database.close()


async def test_a_job_continues_the_trace_that_enqueued_it(database: Database, wakeups: Wakeups) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    seen: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        seen.set_result(current_traceparent())

    with span("request", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01"):
        await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        traceparent = await asyncio.wait_for(seen, 5)
    assert traceparent is not None
    assert trace_id in traceparent


# Running


async def test_effects_and_the_end_of_the_job_commit_together_exactly_once(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    async def ship(job: RunningJob, _payload: Ship) -> None:
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO effect (job_id) VALUES (:id)"), {"id": job.id})
            await job.complete_in(session)
            if job.attempt == 1:
                raise ConnectionError("lost before the commit")

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}, QUICK.model_copy(update={"lease": 60})):
        await reaches(database, job_id, "gone")
    assert await effects.fetchval("SELECT count(*) FROM effect") == 1


async def test_a_handler_that_looks_whether_it_ran_and_then_acts_has_its_effect_twice(
    database: Database, wakeups: Wakeups
) -> None:
    """The version that goes wrong: `if processed: return`, the effect, and a crash before `processed` is written."""
    charges, processed_jobs = [], set[int]()

    async def charge(job: RunningJob, _payload: Ship) -> None:
        if job.id in processed_jobs:
            return
        charges.append(job.id)
        if job.attempt == 1:
            raise ConnectionError("the crash in between")
        processed_jobs.add(job.id)

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: charge}):
        await reaches(database, job_id, "gone")
    assert charges == [job_id, job_id]


async def test_whoever_lost_the_lease_can_neither_complete_nor_keep_its_effects(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    job_id = await add(database, Ship())
    stale = RunningJob(id=job_id, name="ship", attempt=1, max_attempts=3)
    await effects.execute("UPDATE job SET status = 'running', attempt = 2")

    async def finish_late() -> None:
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO effect (job_id) VALUES (:id)"), {"id": job_id})
            await stale.complete_in(session)

    with pytest.raises(LeaseLost):
        await finish_late()
    assert await status(database, job_id) == "running"
    assert await effects.fetchval("SELECT count(*) FROM effect") == 0


async def test_a_heartbeat_keeps_a_job_that_outlasts_its_lease(database: Database, wakeups: Wakeups) -> None:
    release = asyncio.Event()
    attempts = []

    async def ship(job: RunningJob, _payload: Ship) -> None:
        attempts.append(job.attempt)
        await release.wait()

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        await reaches(database, job_id, "running")
        claimed = await find(database, job_id)
        assert claimed is not None

        async def is_extended_past_a_whole_lease() -> bool:
            now = await find(database, job_id)
            return now is not None and (now.lease_until - claimed.lease_until).total_seconds() > QUICK.lease

        await eventually(is_extended_past_a_whole_lease)
        release.set()
        await reaches(database, job_id, "gone")
    assert attempts == [1]


async def test_a_handler_whose_job_went_to_somebody_else_is_cancelled(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    cancelled = asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        await reaches(database, job_id, "running")
        await effects.execute("UPDATE job SET attempt = 2, lease_until = now() + interval '1 hour'")
        await asyncio.wait_for(cancelled.wait(), 5)
    row = await find(database, job_id)
    assert row is not None
    assert (row.status, row.attempt) == ("running", 2)


async def test_a_failed_job_waits_longer_with_each_attempt_up_to_the_cap(database: Database, wakeups: Wakeups) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        raise ConnectionError("payments is away")

    settings = JobSettings(backoff_base=100, backoff_cap=150, poll_interval=0.05)
    job_id = await add(database, Ship())
    waits = []
    async with running(database, wakeups, {Ship: ship}, settings):
        for attempt in (1, 2):
            row = await eventually(partial(_failed, database, job_id, attempt))
            waits.append((row.run_at - row.now).total_seconds())
            async with database.transaction() as session:
                await session.execute(text("UPDATE job SET run_at = now()"))
    assert waits == [pytest.approx(100, abs=5), pytest.approx(150, abs=5)]
    assert row.last_error == "ConnectionError: payments is away"


async def _failed(database: Database, job_id: int, attempt: int) -> Row[Any] | None:
    query = text(
        "SELECT *, now() FROM job WHERE id = :id AND status = 'ready' AND attempt = :attempt AND run_at > now()"
    )
    async with database.read() as session:
        return (await session.execute(query, {"id": job_id, "attempt": attempt})).one_or_none()


async def test_an_error_that_says_when_to_come_back_is_believed(database: Database, wakeups: Wakeups) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        raise ApiError(ErrorCode.DEPENDENCY_UNAVAILABLE, retry_after=300)

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        row = await eventually(partial(_failed, database, job_id, 1))
    assert (row.run_at - row.now).total_seconds() == pytest.approx(300, abs=5)


async def test_a_job_past_its_time_limit_is_stopped_and_counts_as_failed(database: Database, wakeups: Wakeups) -> None:
    class Slow(JobPayload, job="slow", max_attempts=1, time_limit=0.05):
        pass

    async def slow(_job: RunningJob, _payload: Slow) -> None:
        await asyncio.Event().wait()

    job_id = await add(database, Slow())
    async with running(database, wakeups, {Slow: slow}):
        await reaches(database, job_id, "dead")
    row = await find(database, job_id)
    assert row is not None
    assert row.last_error == "TimeoutError: not done within its time limit of 0.05 s"


async def test_of_jobs_at_work_each_has_its_own_time_limit(database: Database, wakeups: Wakeups) -> None:
    class Slow(JobPayload, job="slow", time_limit=20):
        pass

    class Brief(JobPayload, job="brief", max_attempts=1, time_limit=0.05):
        pass

    class Briefer(JobPayload, job="briefer", max_attempts=1, time_limit=0.02):
        pass

    may_go = asyncio.Event()

    async def wait(_job: RunningJob, _payload: JobPayload) -> None:
        await may_go.wait()

    slow, brief, briefer = [await add(database, payload) for payload in (Slow(), Brief(), Briefer())]
    async with running(database, wakeups, {Slow: wait, Brief: wait, Briefer: wait}):
        await reaches(database, brief, "dead")
        await reaches(database, briefer, "dead")
        assert await status(database, slow) == "running"
        may_go.set()
        await reaches(database, slow, "gone")


async def test_while_ends_are_held_up_no_more_jobs_are_begun_than_run_at_once(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    """The end of a job that is not committed is what a crash would repeat."""
    started = 0

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        nonlocal started
        started += 1

    for _ in range(20):
        await add(database, Ship())
    transaction = effects.transaction()
    await transaction.start()
    # A lock that lets rows be claimed and extended, and keeps them from being deleted.
    await effects.execute(
        "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_lock(1); PERFORM pg_advisory_unlock(1); RETURN OLD; END'"
    )
    await effects.execute("CREATE TRIGGER held BEFORE DELETE ON job FOR EACH ROW EXECUTE FUNCTION held()")
    await transaction.commit()
    await effects.execute("SELECT pg_advisory_lock(1)")
    async with running(database, wakeups, {Ship: ship}, QUICK.model_copy(update={"lease": 60})):

        async def as_many_as_may() -> bool:
            return started >= QUICK.concurrency

        await eventually(as_many_as_may)
        await asyncio.sleep(3 * QUICK.poll_interval)  # time for one too many
        assert started == QUICK.concurrency
        await effects.execute("SELECT pg_advisory_unlock(1)")

        async def all_are_gone() -> bool:
            return await effects.fetchval("SELECT count(*) FROM job") == 0

        await eventually(all_are_gone)
    assert started == 20


async def test_the_end_of_a_job_outlasts_an_outage_within_its_lease(
    database: Database, wakeups: Wakeups, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    attempts, is_cut = [], asyncio.Event()

    async def ship(job: RunningJob, _payload: Ship) -> None:
        attempts.append(job.attempt)
        # Every connection is cut while the job runs; its end has to be committed by another one.
        await effects.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            database_settings.name,
        )
        is_cut.set()

    async def is_gone() -> bool:
        return await effects.fetchval("SELECT count(*) FROM job") == 0

    for _ in range(2):  # the second time, completions have a connection that breaks
        await add(database, Ship())
        is_cut.clear()
        async with running(database, wakeups, {Ship: ship}, QUICK.model_copy(update={"lease": 60})):
            await asyncio.wait_for(is_cut.wait(), 10)
            await eventually(is_gone)
        await database.close()  # its other connections are cut too
    assert attempts == [1, 1]


class Watched:
    """A database whose `before` is called with the arguments of each turn that is sent."""

    def __init__(self, database: Database, before: Callable[[Mapping[str, Any]], None]) -> None:
        self._database = database
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        async with self._database.driver() as connection:
            yield SimpleNamespace(fetch=partial(self._fetch, connection))

    async def _fetch(self, connection: asyncpg.Connection, sql: str, *values: object) -> Any:
        turn = next((DRIVER_STATEMENTS[name] for name in TURNS if DRIVER_STATEMENTS[name].sql == sql), None)
        if turn is not None:
            self._before(dict(zip(turn.names, values, strict=True)))
        return await connection.fetch(sql, *values)


async def test_the_server_has_the_next_turn_before_the_last_ones_ends_are_told(
    database: Database, wakeups: Wakeups, effects: asyncpg.Connection
) -> None:
    turns: list[tuple[int, int, int]] = []

    def count() -> int:
        return int(processed.labels("default", "ship", "completed")._value.get())

    def note(turn: Mapping[str, Any]) -> None:
        turns.append((len(turn["ids"]), turn["count"], count() - before))

    async def ship(_job: RunningJob, _payload: Ship) -> None: ...

    async def all_are_told() -> bool:
        return count() - before == 12

    for _ in range(12):
        await add(database, Ship())
    before = count()
    async with running(cast("Database", Watched(database, note)), wakeups, {Ship: ship}):
        await eventually(all_are_told)
    assert turns[:4] == [(0, 4, 0), (4, 4, 0), (4, 4, 0), (4, 4, 4)]  # ended, claimed, told before


async def test_the_ends_of_a_turn_are_fenced_each(database: Database, effects: asyncpg.Connection) -> None:
    mine, lost, found = [await add(database, Ship()) for _ in range(3)]
    await effects.execute("UPDATE job SET status = 'running', attempt = 1, lease_until = now() + interval '1 minute'")
    await effects.execute("UPDATE job SET attempt = 2 WHERE id = ANY ($1)", [lost, found])  # somebody else's by now
    waiting = await add(database, Ship())
    tokens = [(mine, 1), (lost, 1), (found, 2), (found, 1), (waiting, 0)]
    async with database.driver() as connection:
        rows = await DRIVER_STATEMENTS["turn"].fetch(
            connection, **TURN, ids=[id_ for id_, _ in tokens], attempts=[attempt for _, attempt in tokens], count=0
        )
    assert {(row["id"], row["attempt"]) for row in rows} == {(lost, 1), (found, 1), (waiting, 0)}
    assert {row["name"] for row in rows} == {None}
    assert await effects.fetchval("SELECT array_agg(id ORDER BY id) FROM job") == [lost, waiting]


@dataclass(eq=False)
class Held:
    """An attempt with its lease."""

    job: RunningJob
    lease_until: float


async def test_an_end_waits_for_a_turn_that_succeeds_or_for_the_end_of_its_lease() -> None:
    mine, lost, expired, cancelled = [
        Held(RunningJob(id=id_, name="ship", attempt=1, max_attempts=3), lease_until)
        for id_, lease_until in ((1, 50), (2, 50), (3, 10), (4, 50))
    ]
    completions = Completions[Held]()
    ends = {run: completions.complete(run) for run in (mine, lost, expired, cancelled)}
    completions.put_back(completions.take())  # a turn that failed
    completions.give_up(20)
    assert [run for run, end in ends.items() if end.done()] == [expired]
    ends[cancelled].cancel()
    settle(completions.take(), lost={(2, 1)})
    assert [ends[run].result() for run in (mine, lost, expired)] == [True, False, False]
    assert not completions.take()


# Queues and priorities


async def test_a_low_priority_does_not_starve_however_many_of_a_higher_one_come(
    database: Database, wakeups: Wakeups
) -> None:
    class Urgent(JobPayload, job="urgent", priority=10):
        pass

    low_is_done = asyncio.Event()
    urgent_done = 0

    async def urgent(_job: RunningJob, _payload: Urgent) -> None:
        nonlocal urgent_done
        urgent_done += 1
        if not low_is_done.is_set():
            await add(database, Urgent())  # there is always another one

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        low_is_done.set()

    await add(database, Ship())
    for _ in range(8):
        await add(database, Urgent())
    one_at_once = QUICK.model_copy(update={"concurrency": 1})
    async with running(database, wakeups, {Urgent: urgent, Ship: ship}, one_at_once):
        await asyncio.wait_for(low_is_done.wait(), 10)
    assert 1 <= urgent_done <= 8


async def test_a_higher_priority_goes_first(database: Database, wakeups: Wakeups) -> None:
    class Urgent(JobPayload, job="urgent", priority=10):
        pass

    order: list[str] = []

    async def note(job: RunningJob, _payload: JobPayload) -> None:
        order.append(job.name)

    for _ in range(2):
        await add(database, Ship())
    await add(database, Urgent())
    async with running(database, wakeups, {Urgent: note, Ship: note}, QUICK.model_copy(update={"concurrency": 1})):

        async def all_are_done() -> bool:
            return len(order) == 3

        await eventually(all_are_done)
    assert order[0] == "urgent"


async def test_a_claim_does_not_read_the_delayed_jobs_of_a_higher_priority(
    database: Database, effects: asyncpg.Connection
) -> None:
    await effects.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, run_at) "
        "SELECT 'later', 'default', 10, '{}', 1, 3, now() + interval '1 hour' FROM generate_series(1, 20000)"
    )
    await add(database, Ship())
    await effects.execute("ANALYZE job")
    turn = DRIVER_STATEMENTS["turn"]
    values = {**TURN, "ids": [], "attempts": [], "count": 20}
    explained = await effects.fetch(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {turn.sql}", *(values[name] for name in turn.names)
    )
    (plan,) = json.loads(explained[0][0])
    touched = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    assert touched < 100  # of some 400 that hold the index, and 2,000 in all


@pytest.mark.parametrize("statement", TURNS)
async def test_however_deep_the_queue_what_runs_all_the_time_reads_only_its_own_jobs(
    effects: asyncpg.Connection, statement: str
) -> None:
    await effects.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts) "
        "SELECT 'ship', 'default', 0, '{}', 1, 3 FROM generate_series(1, 20000)"
    )
    await effects.execute("ANALYZE job")
    await effects.execute("SET plan_cache_mode = force_generic_plan")
    await effects.execute(f"PREPARE hot AS {DRIVER_STATEMENTS[statement].sql}")
    nothing = ", ".join(["NULL"] * len(DRIVER_STATEMENTS[statement].names))
    plan = await effects.fetch(f"EXPLAIN EXECUTE hot ({nothing})")
    assert not [line for (line,) in plan if "Seq Scan" in line or "job_unready" in line]


async def test_a_turn_is_planned_once_whatever_it_ends_and_claims(effects: asyncpg.Connection) -> None:
    await effects.execute(
        "INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts) "
        "SELECT 'ship', 'default', 0, '{}', 1, 3 FROM generate_series(1, 1000)"
    )
    await effects.execute("ANALYZE job")
    ending: list[asyncpg.Record] = []
    for count in (1, 2, 1, 3, 20, 1, 1, 100, 1, 0):
        tokens = {"ids": [row["id"] for row in ending], "attempts": [row["attempt"] for row in ending]}
        ending = await DRIVER_STATEMENTS["turn"].fetch(effects, **TURN, **tokens, count=count)
        assert len(ending) == count
    assert await effects.fetchval("SELECT count(*) FROM job WHERE status = 'running'") == 0
    custom = await effects.fetchval(
        "SELECT sum(custom_plans) FROM pg_prepared_statements WHERE statement LIKE '%claimable%'"
    )
    assert custom == 5  # PostgreSQL tries a plan of its own for the values so often, before it compares


async def test_a_worker_refuses_jobs_of_a_queue_it_does_not_serve(database: Database, wakeups: Wakeups) -> None:
    class Elsewhere(JobPayload, job="elsewhere", queue="mail"):
        pass

    async def never(_job: RunningJob, _payload: Elsewhere) -> None: ...

    with pytest.raises(HoldfastError, match="cannot run jobs of other queues: Elsewhere"):
        JobRunner(database, {Elsewhere: never}, QUICK, wakeups=wakeups, drain_timeout=1)
    done = asyncio.Event()

    async def deliver(_job: RunningJob, _payload: Elsewhere) -> None:
        done.set()

    await add(database, Elsewhere())
    async with running(database, wakeups, {Elsewhere: deliver}, QUICK.model_copy(update={"queue": "mail"})):
        await asyncio.wait_for(done.wait(), 10)


def test_a_queue_is_drained_at_the_rate_it_shrinks() -> None:
    estimate = DrainEstimate()
    assert estimate.update(1000, now=0) == math.inf
    for second in range(1, 301):
        seconds = estimate.update(10_000 - 20 * second, now=second)
    assert seconds == pytest.approx(4000 / 20, rel=0.05)
    assert estimate.update(20_000, now=302) == math.inf
    assert estimate.update(0, now=303) == 0


# Declared in one place


async def test_two_jobs_about_the_same_are_one_while_it_waits(database: Database) -> None:
    class Settle(JobPayload, job="settle", unique=("order", "step")):
        order: int
        step: str

    async with database.transaction() as session:
        assert await enqueue(session, Settle(order=1, step="a"))
        assert not await enqueue(session, Settle(order=1, step="a"))
        assert await enqueue(session, Settle(order=1, step="b"))
        assert await enqueue(session, Settle(order=2, step="a"))


@pytest.mark.parametrize(
    "options", [{"unique": ("nothing",)}, {"max_attempts": 0}, {"time_limit": 0}, {"priority": 1000}]
)
def test_a_job_that_cannot_be_meant_is_refused_where_it_is_declared(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Wrong: `unique` names unknown fields: nothing|wrong: max_attempts"):

        class Wrong(JobPayload, job="wrong", **options):
            pass


async def test_jobs_of_an_older_version_are_run_by_its_own_handler(database: Database, wakeups: Wakeups) -> None:
    class Deliver(JobPayload, job="deliver", version=2):
        orders: list[int]

    class DeliverV1(JobPayload, job="deliver", version=1):
        order: int

    ran: list[list[int]] = []

    async def deliver(_job: RunningJob, payload: Deliver) -> None:
        ran.append(payload.orders)

    async def deliver_v1(job: RunningJob, payload: DeliverV1) -> None:
        await deliver(job, Deliver(orders=[payload.order]))

    for job_id in (await add(database, DeliverV1(order=1)), await add(database, Deliver(orders=[2, 3]))):
        async with running(database, wakeups, {Deliver: deliver, DeliverV1: deliver_v1}):
            await reaches(database, job_id, "gone")
    assert sorted(ran) == [[1], [2, 3]]


# Dead letters


async def test_a_jobs_calls_get_what_is_left_of_its_time_limit_and_of_its_deadline(
    database: Database, wakeups: Wakeups
) -> None:
    class Brief(JobPayload, job="brief", time_limit=2.0):
        pass

    left: dict[str, float] = {}

    async def handle(job: RunningJob, _payload: JobPayload) -> None:
        left[job.name] = deadlines.remaining()

    jobs = [await add(database, Brief()), await add(database, Ship(), deadline=20)]
    async with running(database, wakeups, {Brief: handle, Ship: handle}):
        for job_id in jobs:
            await reaches(database, job_id, "gone")
    assert 1 < left["brief"] <= 2
    assert 10 < left["ship"] <= 20


async def test_a_job_that_is_late_is_counted_and_not_begun(database: Database, wakeups: Wakeups) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        pytest.fail("it was begun")

    before = deadlines.deadline_exceeded._value.get()
    job_id = await add(database, Ship(), deadline=-1)
    async with running(database, wakeups, {Ship: ship}):
        await reaches(database, job_id, "dead")
    assert deadlines.deadline_exceeded._value.get() == before + 1


async def test_what_no_attempt_can_save_is_a_dead_letter_with_its_reason(database: Database, wakeups: Wakeups) -> None:
    class Refuse(JobPayload, job="refuse"):
        pass

    class Unknown(JobPayload, job="unknown"):
        pass

    class NewShip(JobPayload, job="ship", version=2):
        pass

    class OtherShip(JobPayload, job="ship"):
        order: str

    async def refuse(_job: RunningJob, _payload: Refuse) -> None:
        raise PermanentJobError("the order does not exist")

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        raise ConnectionError("away")

    expected = {
        await add(database, Refuse()): "the order does not exist",
        await add(database, Unknown()): "this worker has no handler for unknown version 1",
        await add(database, NewShip()): "this worker has no handler for ship version 2",
        await add(database, OtherShip(order="x")): "its payload is not a Ship",
        await add(database, Ship()): "ConnectionError: away",
        await add(database, Ship(), deadline=-1): "its deadline passed",
    }
    async with running(database, wakeups, {Refuse: refuse, Ship: ship}):
        for job_id in expected:
            await reaches(database, job_id, "dead")
    async with database.read() as session:
        dead = {job.id: job for job in await dead_letters.list_dead(session)}
    assert dead.keys() == expected.keys()
    for job_id, reason in expected.items():
        assert reason in (dead[job_id].last_error or "")


async def test_replay_gives_chosen_dead_letters_new_attempts_and_a_dry_run_none(
    database: Database, wakeups: Wakeups
) -> None:
    calls = []

    async def ship(job: RunningJob, payload: Ship) -> None:
        calls.append((payload.order, job.attempt))
        if job.attempt <= 3:
            raise ConnectionError("away")

    first, second = await add(database, Ship(order=1)), await add(database, Ship(order=2))
    async with running(database, wakeups, {Ship: ship}):
        await reaches(database, first, "dead")
        await reaches(database, second, "dead")
        async with database.transaction() as session:
            assert await dead_letters.replay(session, which=Filter(name="ship", error="away"), dry_run=True) == [
                first,
                second,
            ]
            assert await dead_letters.replay(session, which=Filter(name="other")) == []
            assert await dead_letters.replay(session, which=Filter(error="%")) == []
            assert {stat.jobs for stat in await dead_letters.stats(session)} == {2}
            assert await dead_letters.replay(session, job_id=first) == [first]
        await reaches(database, first, "gone")
    assert calls[-1] == (1, 4)
    async with database.read() as session:
        shown = await dead_letters.show(session, second)
    assert shown is not None
    assert (shown.status, shown.payload) == ("dead", '{"order": 2}')


# Stopping


async def test_a_stopping_worker_claims_nothing_and_lets_jobs_finish(database: Database, wakeups: Wakeups) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        started.set()
        await release.wait()

    stopping = asyncio.Event()
    one_at_once = QUICK.model_copy(update={"concurrency": 1})
    runner = JobRunner(database, {Ship: ship}, one_at_once, wakeups=wakeups, drain_timeout=10)
    task = asyncio.create_task(runner.run(stopping))
    first = await add(database, Ship())
    await started.wait()
    stopping.set()
    second = await add(database, Ship())
    release.set()
    await asyncio.wait_for(task, 5)
    assert await status(database, first) == "gone"
    assert await status(database, second) == "ready"


async def test_a_job_that_does_not_finish_in_time_is_handed_back_and_loses_no_attempt(
    database: Database, wakeups: Wakeups
) -> None:
    async def ship(_job: RunningJob, _payload: Ship) -> None:
        await asyncio.Event().wait()

    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}, drain_timeout=0.05):
        await reaches(database, job_id, "running")
    row = await find(database, job_id)
    assert row is not None
    assert (row.status, row.attempt, row.max_attempts) == ("ready", 1, 4)  # the token grows, 3 attempts are left


async def test_an_outage_of_the_database_is_sat_out(
    database: Database, wakeups: Wakeups, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    done = asyncio.Event()

    async def ship(_job: RunningJob, _payload: Ship) -> None:
        done.set()

    async def is_added() -> bool:
        try:
            await add(database, Ship())
        except DatabaseUnreachable:  # by a connection that was cut: a request would answer 503
            return False
        return True

    async with running(database, wakeups, {Ship: ship}):
        for _ in range(3):
            await effects.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
                database_settings.name,
            )
            done.clear()
            await eventually(is_added)
            await asyncio.wait_for(done.wait(), 10)


# Real processes


async def test_a_job_of_a_killed_worker_is_run_by_another_and_the_attempt_counts(
    database: Database, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    job_id = await add(database, Hold())
    async with worker(database_settings) as first:
        await effect(effects, "started", pid=first.pid)
        first.kill()
        await first.wait()
        async with worker(database_settings) as second:
            done = await effect(effects, "done")
            assert (done["pid"], done["attempt"]) == (second.pid, 2)
    assert await status(database, job_id) == "gone"


async def test_a_worker_stopped_beyond_its_lease_cannot_complete_when_it_goes_on(
    database: Database, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    await add(database, Hold())
    async with worker(database_settings) as first:
        await effect(effects, "started", pid=first.pid)
        first.send_signal(signal.SIGSTOP)
        async with worker(database_settings) as second:
            await effect(effects, "done", pid=second.pid)
            await effects.execute("INSERT INTO effect (what) VALUES ('release')")
            first.send_signal(signal.SIGCONT)
            first.terminate()
            assert await first.wait() == 0
    assert await effects.fetchval("SELECT count(*) FROM effect WHERE what = 'done'") == 1


async def test_sigterm_hands_unfinished_jobs_back_and_exits_with_0(
    database: Database, database_settings: DatabaseSettings, effects: asyncpg.Connection
) -> None:
    job_id = await add(database, Hold())
    async with worker(database_settings, drain_timeout=0.1) as process:
        await effect(effects, "started")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    row = await find(database, job_id)
    assert row is not None
    assert (row.status, row.attempt, row.max_attempts) == ("ready", 1, 4)


async def test_each_attempt_is_counted_by_how_it_ended(database: Database, wakeups: Wakeups) -> None:
    async def ship(job: RunningJob, _payload: Ship) -> None:
        if job.attempt == 1:
            raise ConnectionError("away")

    def count(outcome: str) -> int:
        return int(processed.labels("default", "ship", outcome)._value.get())

    before = count("retried"), count("completed")
    job_id = await add(database, Ship())
    async with running(database, wakeups, {Ship: ship}):
        await reaches(database, job_id, "gone")
    assert (count("retried") - before[0], count("completed") - before[1]) == (1, 1)
