"""A statement that takes a limited number of rows takes no more, whatever the planner believes of its table."""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from chassis.config.settings import DatabaseSettings
from chassis.pooling.statements import DriverStatement, load_statements
from chassis.pooling.wakeup import connect

ROWS, LIMIT = 60, 7

DEAD_JOBS = """
INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, run_at, status)
SELECT 'j', 'q', 0, '{}', 1, 1, now() - interval '1 day', 'dead' FROM generate_series(1, $1)
"""
FAILURES = """
INSERT INTO job_failure (job_id, name, payload, attempt, error, failed_at)
SELECT n, 'j', '{}', 1, '', now() - interval '1 day' FROM generate_series(1, $1) AS n
"""
PUBLISHED = """
INSERT INTO outbox (stream, type, schema, aggregate_id, aggregate_version, payload, published_at)
SELECT 's', 't', 1, n::text, 1, '{}', now() - interval '1 day' FROM generate_series(1, $1) AS n
"""
RECEIVED = """
INSERT INTO inbox (consumer, event_id, received_at)
SELECT 'c', gen_random_uuid(), now() - interval '1 day' FROM generate_series(1, $1)
"""
DEAD_EVENTS = """
INSERT INTO dead_event (consumer, stream, entry_id, event, reason, replay_at)
SELECT 'c', 's', n::text, n::text, '', now() FROM generate_series(1, $1) AS n
"""
KEYS = """
INSERT INTO idempotency_record (client, key, fingerprint, status, body, created_at)
SELECT 'c', n::text, '', 201, '', now() - interval '1 day' FROM generate_series(1, $1) AS n
"""

_JOBS = load_statements("jobs.sql", package="chassis.jobs")
_INBOX = load_statements("inbox.sql", package="chassis.events")
_KEYS = load_statements("idempotency.sql", package="chassis.retries")
_OUTBOX = load_statements("outbox.sql", package="chassis.events")

READY_JOBS = """
INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts)
SELECT 'j', 'q', 0, '{}', 1, 1 FROM generate_series(1, $1)
"""
_WHICH = {"ids": [], "attempts": [], "queue": "q", "suspects": False, "alone": False, "lookback": None}
_TURN = _WHICH | {"count": LIMIT, "worker": "w", "lease": 1.0}

TAKEN = {
    "turn": (READY_JOBS, _JOBS["turn"], _TURN),
    "turn_oldest": (READY_JOBS, _JOBS["turn_oldest"], _TURN),
    "jobs": (
        DEAD_JOBS,
        _JOBS["prune"],
        {"retention": 60.0, "count": LIMIT},
    ),
    "failures": (
        FAILURES,
        _JOBS["prune_failures"],
        {"retention": 60.0, "count": LIMIT},
    ),
    "inbox": (
        RECEIVED,
        _INBOX["prune"],
        {"consumer": "c", "retention": 60.0, "count": LIMIT},
    ),
    "outbox": (PUBLISHED, _OUTBOX["prune"], {"$1": 60.0, "$2": LIMIT}),
    "keys": (KEYS, _KEYS["prune"], {"retention": 60.0, "batch": LIMIT}),
}
"""What fills a table, the statement that takes some of its rows, and what it takes them by."""


@pytest.fixture
async def connection(database_settings: DatabaseSettings):
    """One of the owner's: nobody else may have a table analysed."""
    found = await connect(database_settings.as_owner(), application_name="owner")
    yield found
    await found.close()


async def explained(connection: asyncpg.Connection, statement: str, values: dict[str, Any]) -> dict[str, Any]:
    """The plan as it ran; nothing stays of it."""
    driven = DriverStatement.of(statement)
    given = [values[name] for name in driven.names] or list(values.values())
    transaction = connection.transaction()
    await transaction.start()
    try:
        (found,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {driven.sql}", *given))
    finally:
        await transaction.rollback()
    return found["Plan"]


@pytest.mark.parametrize("known", ["nothing", "that it was empty", "all"])
@pytest.mark.parametrize("what", TAKEN)
async def test_a_limit_is_worked_out_once_whatever_is_known_of_the_table(
    connection: asyncpg.Connection, what: str, known: str
) -> None:
    fill, statement, values = TAKEN[what]
    if known == "that it was empty":
        await connection.execute("ANALYZE")
    await connection.execute(fill, ROWS)
    if known == "all":
        await connection.execute("ANALYZE")
    ran = list(nodes(await explained(connection, statement, values)))
    assert [(node["Actual Loops"], node["Actual Rows"]) for node in ran if node["Node Type"] == "Limit"] == [(1, LIMIT)]
    changes = [node["Plans"] for node in ran if node["Node Type"] == "ModifyTable"]
    assert max(change["Actual Rows"] for plans in changes for change in plans) == LIMIT


async def test_one_dead_event_is_taken_at_a_time_whatever_is_known_of_the_table(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("ANALYZE dead_event")
    await connection.execute(DEAD_EVENTS, ROWS)
    take = DriverStatement.of(_INBOX["take_replayable"])
    assert [len(await take.fetch(connection, consumer="c")) for _ in range(3)] == [1, 1, 1]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan's, the outer ones first."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)
