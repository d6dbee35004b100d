"""What became of a webhook is counted once, by a reason from a short list: by the API, and by the worker."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from backends import RealServer
from captured_logs import captured_logs
from chassis import webhooks
from chassis.webhooks import webhook_processed, webhook_received
from harness import one
from prometheus_client import Counter
from test_webhook_attacks import BODY, TEN_MEGABYTES, Ingest, Lines, ingest, standard
from test_webhook_ingest import Ingest as WholeIngest
from test_webhook_ingest import body_of
from test_webhook_ingest import ingest as whole_ingest

__all__ = ["ingest", "whole_ingest"]

LATE, EARLY = webhooks.TOLERANCE_SECONDS + 20, -webhooks.TOLERANCE_SECONDS - 20


def counted(counter: Counter) -> dict[str, float]:
    """By result; of all senders, since other tests have theirs."""
    found: dict[str, float] = {}
    for sample in (sample for metric in counter.collect() for sample in metric.samples):
        if sample.name.endswith("_total") and sample.value:
            found[sample.labels["result"]] = found.get(sample.labels["result"], 0) + sample.value
    return found


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {result: value - before.get(result, 0) for result, value in after.items() if value != before.get(result, 0)}


def forged() -> Lines:
    signed = webhooks.sign("whsec_" + "ZXZl" * 10, "evt_1", int(time.time()), BODY)
    return [(name, value.encode()) for name, value in signed.items()]


@pytest.mark.parametrize(
    ("lines", "sent", "length", "result"),
    [
        (lambda: standard(BODY), BODY, len(BODY), "accepted"),
        (forged, BODY, len(BODY), "bad_signature"),
        (lambda: standard(BODY, age=LATE), BODY, len(BODY), "stale"),
        (lambda: standard(BODY, age=EARLY), BODY, len(BODY), "future"),
        (list, BODY, len(BODY), "malformed"),
        (lambda: standard(BODY), b"[" + b" " * 100_000, TEN_MEGABYTES, "too_large"),
        (lambda: standard(BODY), BODY[:-1], len(BODY), "too_slow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_each_webhook_is_counted_by_what_became_of_it(
    ingest: Ingest, lines: object, sent: bytes, length: int, result: str
) -> None:
    assert callable(lines)
    before = counted(webhook_received)
    await ingest.post("payment-provider", lines(), sent, length=length)
    assert difference(before, counted(webhook_received)) == {result: 1}


async def test_one_that_comes_again_is_counted_as_a_duplicate(ingest: Ingest) -> None:
    lines = standard(BODY)
    await ingest.post("payment-provider", lines)
    before = counted(webhook_received)
    await ingest.post("payment-provider", lines)
    assert difference(before, counted(webhook_received)) == {"duplicate": 1}


@asynccontextmanager
async def nothing_can_be_stored(postgres: RealServer, database: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(postgres.dsn, database=database)
    try:
        await connection.execute("REVOKE INSERT ON provider_event FROM test_app")
        yield
    finally:
        await connection.execute("GRANT INSERT ON provider_event TO test_app")
        await connection.close()


async def test_one_that_could_not_be_stored_has_failed_and_is_not_acknowledged(
    ingest: Ingest, postgres: RealServer
) -> None:
    name = (await one(ingest.database, "SELECT current_database() AS name")).name
    before = counted(webhook_received)
    async with nothing_can_be_stored(postgres, name):
        with captured_logs():  # on a terminal the traceback of a 500 takes seconds
            status, _ = await ingest.post("payment-provider", standard(BODY))
    assert status >= 500
    assert difference(before, counted(webhook_received)) == {"failed": 1}


@pytest.mark.parametrize(
    ("body", "result"),
    [(body_of(), "published"), (body_of("charge.disputed"), "unknown_type"), (body_of(amount="much"), "unreadable")],
    ids=["published", "unknown_type", "unreadable"],
)
async def test_the_worker_counts_what_it_made_of_it(whole_ingest: WholeIngest, body: bytes, result: str) -> None:
    await whole_ingest.send(body)
    before = counted(webhook_processed)
    await whole_ingest.publish()
    assert difference(before, counted(webhook_processed)) == {result: 1}
