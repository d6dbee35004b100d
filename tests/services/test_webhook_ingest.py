"""Webhook-ingest: what a provider signed is stored once and answered, whatever is in it; a job reads it later."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
from backends import FreshDatabase
from chassis import webhooks
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RateLimitSettings, RedisSettings
from chassis.errors import DatabaseUnreachable, LeaseLost, PermanentJobError
from chassis.jobs import RunningJob, dead_letters
from chassis.jobs.dead_letters import Filter
from chassis.pooling import Database
from harness import attempt, count, execute, job_statuses, one, rows, running
from pydantic import SecretStr
from sqlalchemy import text
from standardwebhooks import Webhook
from webhook_ingest import jobs, use_cases
from webhook_ingest.api import create_app
from webhook_ingest.messages import PublishEvent
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

SECRET, OLD_SECRET = "whsec_" + "bmV3" * 10, "whsec_" + "b2xk" * 10
PATH = "/v1/webhooks/payment-provider"
HOUR = 3600
BAD_CREDENTIALS = {"rate_per_second": 0.001, "burst": 20}


@dataclass(frozen=True, slots=True)
class Ingest:
    """The service under test, its database, and a provider that posts to it."""

    database: Database
    provider: httpx.AsyncClient

    async def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return await self.provider.post(PATH, content=body, headers={"Content-Type": "application/json"} | headers)

    async def send(self, body: bytes, event_id: str = "evt_1", *, age: int = 0, secret: str = SECRET) -> httpx.Response:
        """A webhook signed `age` seconds ago, of whatever bytes."""
        return await self.post(body, webhooks.sign(secret, event_id, int(time.time()) - age, body))

    async def stored(self) -> Any:
        return await one(self.database, "SELECT * FROM provider_event")

    async def publish(self) -> Exception | None:
        """One attempt at the job `publish_event`."""
        return await attempt(self.database, PublishEvent, partial(jobs.publish_event, self.database))


@pytest.fixture
async def ingest(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
) -> AsyncIterator[Ingest]:
    settings = WebhookIngestSettings(
        database=await empty_database("webhook_ingest"),
        redis=patient_redis,
        rate_limit=RateLimitSettings.model_validate({"bad_credentials": BAD_CREDENTIALS}),
        webhook_secrets=WebhookSecretSettings(payment_provider=[SecretStr(SECRET), SecretStr(OLD_SECRET)]),
    )
    async with running(create_app(Live(settings))) as client_of, client_of(None) as provider:
        yield Ingest(open_database(settings.database), provider)


def body_of(kind: str = "charge.succeeded", **changes: object) -> bytes:
    about = {"id": "ch_1", "reference": "pay_1", "object_version": 2, "amount": 12898, "failure_code": None}
    return orjson.dumps({"type": kind, "created_at": "2026-01-01T00:00:00Z", "data": about | changes})


# Receiving


async def test_what_the_published_package_signed_is_stored_with_its_job(ingest: Ingest) -> None:
    body, now = body_of(), datetime.now(tz=UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("evt_1", now, body.decode()),
    }
    answer = await ingest.post(body, headers)
    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    stored = await ingest.stored()
    assert (stored.provider, stored.event_id, stored.status, stored.body) == (
        "payment-provider",
        "evt_1",
        "stored",
        body,
    )
    job = await one(ingest.database, "SELECT * FROM job")
    assert (job.name, job.payload) == ("publish_event", {"id": str(stored.id)})


async def test_bad_signatures_are_limited_by_the_claimed_sender_and_its_own_webhooks_still_pass(ingest: Ingest) -> None:
    headers = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,forged"}
    statuses = [(await ingest.post(body_of(), headers)).status_code for _ in range(BAD_CREDENTIALS["burst"])]
    assert set(statuses) == {401}
    refused = await ingest.post(body_of(), headers)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert '"bad_credentials";r=0' in refused.headers["RateLimit"]
    assert (await ingest.send(body_of())).status_code == 200
    assert await count(ingest.database, "provider_event") == 1


async def test_an_hour_of_events_at_once_is_taken(ingest: Ingest) -> None:
    """A provider delivers what an outage held up over many connections, as fast as it can. The rate limit here is one
    of strangers: a webhook with a valid signature takes nothing from it, or an outage of an hour would last for two.
    """
    free = asyncio.Semaphore(8)  # fewer than the pool has connections, however slow the machine is

    async def deliver(number: int) -> int:
        async with free:
            return (await ingest.send(body_of(), event_id=f"evt_{number}")).status_code

    statuses = await asyncio.gather(*(deliver(number) for number in range(300)))
    assert Counter(statuses) == {200: 300}
    assert await count(ingest.database, "provider_event") == await count(ingest.database, "job") == 300


async def test_a_webhook_sent_again_is_acknowledged_and_stored_once(ingest: Ingest) -> None:
    await ingest.send(body_of())
    again = await ingest.send(body_of(), age=5)
    assert (again.status_code, again.json()) == (200, {"status": "duplicate"})
    assert await count(ingest.database, "provider_event") == await count(ingest.database, "job") == 1


async def test_a_webhook_that_was_handled_and_comes_again_is_not_handled_again(ingest: Ingest) -> None:
    await ingest.send(body_of())
    assert await ingest.publish() is None
    assert (await ingest.send(body_of())).json() == {"status": "duplicate"}
    assert await job_statuses(ingest.database, "publish_event") == []
    assert (await ingest.stored()).status == "published"


async def test_a_webhook_sent_many_times_at_once_is_stored_once(ingest: Ingest) -> None:
    answers = await asyncio.gather(*(ingest.send(body_of()) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["status"] for answer in answers) == ["accepted"] + ["duplicate"] * 19
    assert await count(ingest.database, "provider_event") == await count(ingest.database, "job") == 1


async def test_the_first_body_under_an_id_is_the_one_that_counts(ingest: Ingest) -> None:
    await ingest.send(body_of("charge.failed"))
    assert (await ingest.send(body_of("charge.succeeded"))).json() == {"status": "duplicate"}
    assert (await ingest.stored()).body == body_of("charge.failed")


async def test_the_secret_being_replaced_is_still_good(ingest: Ingest) -> None:
    assert (await ingest.send(body_of(), secret=OLD_SECRET)).status_code == 200


async def test_what_is_not_authentic_is_refused_and_leaves_nothing(ingest: Ingest) -> None:
    body = body_of()
    good = webhooks.sign(SECRET, "evt_1", int(time.time()), body)
    forged = webhooks.sign("whsec_" + "ZXZl" * 10, "evt_1", int(time.time()), body)
    attacks: list[tuple[bytes, dict[str, str]]] = [
        (body, {}),
        (body, forged),
        (body + b" ", good),
        (body, good | {"webhook-id": "evt_2"}),
        (body, good | {"webhook-timestamp": str(int(time.time()) + 1)}),
        (body, good | {"webhook-signature": "v1,"}),
        (body, good | {"webhook-signature": "nonsense"}),
        (body, webhooks.sign(SECRET, "evt_1", int(time.time()) - HOUR, body)),
        (body, webhooks.sign(SECRET, "evt_1", int(time.time()) + HOUR, body)),
    ]
    for content, headers in attacks:
        answer = await ingest.post(content, headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "SIGNATURE_INVALID"), headers
    assert await count(ingest.database, "provider_event") == await count(ingest.database, "job") == 0


async def test_a_body_over_the_cap_is_refused_before_its_signature_is_looked_at(ingest: Ingest) -> None:
    answer = await ingest.send(b"[" + b" " * 70_000 + b"]")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert await count(ingest.database, "provider_event") == 0


# Publishing


async def test_the_event_tells_what_became_of_which_object(ingest: Ingest) -> None:
    await ingest.send(body_of("charge.failed", failure_code="card_declined"))
    assert await ingest.publish() is None
    stored = await ingest.stored()
    event = await one(ingest.database, "SELECT * FROM outbox")
    assert (event.stream, event.type) == ("events:webhook-ingest", "provider.charge.failed")
    assert (event.aggregate_id, event.aggregate_version) == (str(stored.id), 1)
    assert event.payload == {
        "reference": "pay_1",
        "provider_id": "ch_1",
        "object_version": 2,
        "amount": 12898,
        "raw_event_id": "evt_1",
        "failure_code": "card_declined",
    }
    assert (stored.status, await job_statuses(ingest.database, "publish_event")) == ("published", [])


@pytest.mark.parametrize("kind", ["charge.succeeded", "charge.failed", "refund.succeeded", "refund.failed"])
async def test_each_type_that_is_handled_has_its_event(ingest: Ingest, kind: str) -> None:
    await ingest.send(body_of(kind))
    assert await ingest.publish() is None
    assert (await one(ingest.database, "SELECT type FROM outbox")).type == f"provider.{kind}"


UNREADABLE = [
    b"",
    b"\x00",
    b"not json",
    b"\xff\xfe\xfd",
    b"[]",
    b"null",
    b"{}",
    b"[" * 60_000,
    *(b'{"data":' * depth + b"1" + b"}" * depth for depth in (255, 1023, 1025)),
    b'{"type": "charge.succeeded", "data": ' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"type": "charge.succeeded"}',
    b'{"type": "charge.succeeded", "data": {"id": "ch_1"}}',
    b'{"type": "charge.\\u0000", "data": {}}',
    b'{"type": "\\ud800", "data": {}}',
    body_of(reference="pay\0"),
    body_of(id=""),
    body_of(amount="a lot"),
    body_of(failure_code="card\0declined"),
    body_of(failure_code="line\r\nbreak"),
    body_of(reference="r" * 300),
    body_of().replace(b"12898", b"9" * 5000),
]


async def test_a_signed_body_that_cannot_be_read_is_stored_then_dead_as_is_its_job(ingest: Ingest) -> None:
    for n, body in enumerate(UNREADABLE):
        answer = await ingest.send(body, f"evt_{n}")
        assert (answer.status_code, answer.json()) == (200, {"status": "accepted"}), body[:80]
        assert isinstance(await ingest.publish(), PermanentJobError)
        stored = await one(ingest.database, "SELECT * FROM provider_event WHERE event_id = :id", id=f"evt_{n}")
        assert (stored.status, stored.body) == ("dead", body), body[:80]
        assert stored.reason.startswith("unreadable")
    assert await job_statuses(ingest.database, "publish_event") == ["dead"] * len(UNREADABLE)
    assert await count(ingest.database, "outbox") == 0


async def test_a_dead_event_is_published_once_its_job_is_replayed_after_a_fix(ingest: Ingest) -> None:
    async def replay() -> None:
        async with ingest.database.transaction() as session:
            assert len(await dead_letters.replay(session, which=Filter(name="publish_event"))) == 1

    await ingest.send(body_of(amount="a lot"))
    await ingest.publish()
    await replay()
    assert isinstance(await ingest.publish(), PermanentJobError)
    assert (await ingest.stored()).status == "dead"
    # It stands for a fix of what reads the body.
    await execute(ingest.database, "UPDATE provider_event SET body = :body", body=body_of())
    await replay()
    assert await ingest.publish() is None
    stored = await ingest.stored()
    assert (stored.status, stored.reason) == ("published", None)
    assert await count(ingest.database, "outbox") == 1
    assert await job_statuses(ingest.database, "publish_event") == []


@pytest.mark.parametrize(
    "body", [body_of("charge.disputed"), b'{"type": "customer.created", "data": {"name": "Ada"}}', b'{"type": "ping"}']
)
async def test_a_type_that_nobody_handles_is_kept_and_ignored(ingest: Ingest, body: bytes) -> None:
    await ingest.send(body)
    assert await ingest.publish() is None
    stored = await ingest.stored()
    assert (stored.status, stored.body) == ("ignored", body)
    assert await count(ingest.database, "outbox") == await count(ingest.database, "job") == 0


async def test_a_crash_while_publishing_leaves_the_event_and_its_job_as_they_were(ingest: Ingest) -> None:
    await ingest.send(body_of())
    stored = await ingest.stored()

    async def publish_and_be_killed(*_: object) -> None:
        async with ingest.database.transaction() as session:
            await use_cases.publish_event(session, stored.id)
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            await rows(ingest.database, "SELECT pg_terminate_backend(:pid)", pid=pid)

    assert isinstance(await attempt(ingest.database, PublishEvent, publish_and_be_killed), DatabaseUnreachable)
    assert (await ingest.stored()).status == "stored"
    assert await count(ingest.database, "outbox") == 0
    assert await ingest.publish() is None
    assert await count(ingest.database, "outbox") == 1


async def test_two_workers_with_one_event_publish_it_once(ingest: Ingest) -> None:
    await ingest.send(body_of())
    stored = await ingest.stored()

    async def publish() -> None:
        async with ingest.database.transaction() as session:
            await use_cases.publish_event(session, stored.id)

    await asyncio.gather(*(publish() for _ in range(5)))
    assert await count(ingest.database, "outbox") == 1


async def test_a_worker_that_lost_its_lease_publishes_nothing(ingest: Ingest) -> None:
    await ingest.send(body_of())

    async def publish_late(job: RunningJob, payload: PublishEvent) -> None:
        async with ingest.database.transaction() as session:
            await session.execute(text("UPDATE job SET attempt = attempt + 1"))
        await jobs.publish_event(ingest.database, job, payload)

    assert isinstance(await attempt(ingest.database, PublishEvent, publish_late), LeaseLost)
    assert (await ingest.stored()).status == "stored"
    assert await count(ingest.database, "outbox") == 0
