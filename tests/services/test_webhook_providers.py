"""Stripe and GitHub post here too: each signs in its own way, and what they send is stored like any other webhook."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling import Database
from harness import attempt, count, job_statuses, rows, running
from prometheus_client import REGISTRY
from pydantic import SecretStr, ValidationError
from stripe import WebhookSignature
from webhook_ingest import jobs
from webhook_ingest.api import create_app
from webhook_ingest.messages import PublishEvent
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

STRIPE_SECRET, OLD_STRIPE_SECRET = "whsec_the-new-one", "whsec_the-old-one"
STRIPE_EVENT = orjson.dumps({"id": "evt_1NG8", "object": "event", "type": "invoice.paid", "data": {"object": {}}})

# "Testing the webhook payload validation" in GitHub's documentation.
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
DELIVERY = "72d3162e-cc78-11e3-81ab-4c9367dc0958"

PAYMENT_PROVIDER = [SecretStr("whsec_" + "bmV3" * 10)]
ALL = WebhookSecretSettings(
    payment_provider=PAYMENT_PROVIDER,
    stripe=[SecretStr(STRIPE_SECRET), SecretStr(OLD_STRIPE_SECRET)],
    github=[SecretStr(GITHUB_SECRET)],
)

type Serve = Callable[[WebhookSecretSettings], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
async def ingest_database(empty_database: FreshDatabase) -> DatabaseSettings:
    return await empty_database("webhook_ingest")


@pytest.fixture
def database(ingest_database: DatabaseSettings, open_database: Callable[[DatabaseSettings], Database]) -> Database:
    return open_database(ingest_database)


@pytest.fixture
def serve(ingest_database: DatabaseSettings, patient_redis: RedisSettings) -> Serve:
    """Runs the API with these secrets; gives a client without a key."""

    @asynccontextmanager
    async def serving(secrets: WebhookSecretSettings) -> AsyncIterator[httpx.AsyncClient]:
        settings = WebhookIngestSettings(database=ingest_database, redis=patient_redis, webhook_secrets=secrets)
        async with running(create_app(Live(settings))) as client_of, client_of(None) as client:
            yield client

    return serving


@pytest.fixture
async def sender(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that knows all providers."""
    async with serve(ALL) as client:
        yield client


async def send_stripe(
    sender: httpx.AsyncClient, body: bytes = STRIPE_EVENT, *, age: int = 0, secret: str = STRIPE_SECRET
) -> httpx.Response:
    """What Stripe's own package signs."""
    signature = WebhookSignature.generate_signature_header(body.decode(), secret, timestamp=int(time.time()) - age)
    return await sender.post("/v1/webhooks/stripe", content=body, headers={"Stripe-Signature": signature})


async def send_github(
    sender: httpx.AsyncClient, body: bytes = GITHUB_BODY, *, delivery: str = DELIVERY, signature: str | None = None
) -> httpx.Response:
    signature = signature or "sha256=" + hmac.new(GITHUB_SECRET.encode(), body, "sha256").hexdigest()
    headers = {"X-Hub-Signature-256": signature, "X-GitHub-Delivery": delivery, "X-GitHub-Event": "push"}
    return await sender.post("/v1/webhooks/github", content=body, headers=headers)


async def stored(database: Database) -> list[tuple[Any, ...]]:
    found = await rows(database, "SELECT provider, event_id, body, status FROM provider_event ORDER BY received_at")
    return [tuple(row) for row in found]


async def test_what_stripe_signed_is_stored_under_the_id_in_its_body(
    sender: httpx.AsyncClient, database: Database
) -> None:
    answer = await send_stripe(sender)
    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    assert await stored(database) == [("stripe", "evt_1NG8", STRIPE_EVENT, "stored")]
    assert await count(database, "job") == 1


async def test_githubs_documented_example_is_stored_under_its_delivery_id(
    sender: httpx.AsyncClient, database: Database
) -> None:
    answer = await send_github(sender, signature=GITHUB_SIGNATURE)
    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    assert await stored(database) == [("github", DELIVERY, GITHUB_BODY, "stored")]
    assert await count(database, "job") == 1


@pytest.mark.parametrize("send", [send_stripe, send_github])
async def test_a_webhook_sent_many_times_at_once_is_stored_once(
    sender: httpx.AsyncClient, database: Database, send: Callable[..., Awaitable[httpx.Response]]
) -> None:
    answers = await asyncio.gather(*(send(sender) for _ in range(10)))
    assert sorted(answer.json()["status"] for answer in answers) == ["accepted"] + ["duplicate"] * 9
    assert await count(database, "provider_event") == await count(database, "job") == 1


async def test_a_replay_by_github_is_a_duplicate_even_after_it_was_handled(
    sender: httpx.AsyncClient, database: Database
) -> None:
    await send_github(sender)
    assert await attempt(database, PublishEvent, partial(jobs.publish_event, database)) is None
    assert (await send_github(sender)).json() == {"status": "duplicate"}
    assert await job_statuses(database, "publish_event") == []


async def test_the_same_id_from_two_providers_is_two_events(sender: httpx.AsyncClient, database: Database) -> None:
    await send_stripe(sender)
    assert (await send_github(sender, delivery="evt_1NG8")).json() == {"status": "accepted"}
    assert {(provider, event_id) for provider, event_id, *_ in await stored(database)} == {
        ("stripe", "evt_1NG8"),
        ("github", "evt_1NG8"),
    }


async def test_the_secret_being_replaced_is_still_good(sender: httpx.AsyncClient) -> None:
    assert (await send_stripe(sender, secret=OLD_STRIPE_SECRET)).status_code == 200


async def test_what_is_not_authentic_is_refused_and_leaves_nothing(
    sender: httpx.AsyncClient, database: Database
) -> None:
    refused = [
        await send_stripe(sender, secret="whsec_of-somebody-else"),
        await send_stripe(sender, age=301),
        await send_stripe(sender, age=-302),
        await sender.post("/v1/webhooks/stripe", content=STRIPE_EVENT),
        await send_github(sender, signature=GITHUB_SIGNATURE[:-1] + "8"),
        await send_github(sender, GITHUB_BODY + b" ", signature=GITHUB_SIGNATURE),
        await send_github(sender, signature=GITHUB_SIGNATURE.removeprefix("sha256=")),
        await sender.post("/v1/webhooks/github", content=GITHUB_BODY, headers={"X-GitHub-Delivery": DELIVERY}),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in refused] == [
        (401, "SIGNATURE_INVALID")
    ] * len(refused)
    assert await count(database, "provider_event") == await count(database, "job") == 0


async def test_one_providers_signature_opens_no_other_providers_path(sender: httpx.AsyncClient) -> None:
    signature = WebhookSignature.generate_signature_header(
        STRIPE_EVENT.decode(), STRIPE_SECRET, timestamp=int(time.time())
    )
    for path in ("github", "payment-provider"):
        answer = await sender.post(
            f"/v1/webhooks/{path}", content=STRIPE_EVENT, headers={"Stripe-Signature": signature}
        )
        assert answer.status_code == 401


@pytest.mark.parametrize("body", [b'{"object": "event"}', b'{"id": 7}', b"not json", b""])
async def test_a_body_signed_by_stripe_without_an_id_is_refused_since_it_could_not_be_told_from_its_repetition(
    sender: httpx.AsyncClient, database: Database, body: bytes
) -> None:
    answer = await send_stripe(sender, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "SIGNATURE_INVALID")
    assert await count(database, "provider_event") == 0


@pytest.mark.parametrize(
    "body", [GITHUB_BODY, b"payload=%7B%7D", b"\xff\xfe", b'{"type": "charge.succeeded"}'], ids=repr
)
async def test_what_nobody_handles_is_kept_and_ignored(
    sender: httpx.AsyncClient, database: Database, body: bytes
) -> None:
    await send_github(sender, body)
    assert await attempt(database, PublishEvent, partial(jobs.publish_event, database)) is None
    assert await stored(database) == [("github", DELIVERY, body, "ignored")]
    assert await count(database, "outbox") == await count(database, "job") == 0


async def test_stripe_cannot_tell_of_a_charge_at_the_payment_provider(
    sender: httpx.AsyncClient, database: Database
) -> None:
    about = {"id": "ch_1", "reference": "pay_1", "object_version": 2, "amount": 12898, "failure_code": None}
    body = orjson.dumps({"id": "evt_1", "type": "charge.succeeded", "data": about})
    await send_stripe(sender, body)
    assert await attempt(database, PublishEvent, partial(jobs.publish_event, database)) is None
    assert await stored(database) == [("stripe", "evt_1", body, "ignored")]
    assert await count(database, "outbox") == 0


async def test_a_provider_without_secrets_is_answered_like_a_path_that_does_not_exist(
    serve: Serve, database: Database
) -> None:
    async with serve(WebhookSecretSettings(payment_provider=PAYMENT_PROVIDER)) as client:
        unknown = await client.post("/v1/nothing", headers={"X-Request-ID": "same"})
        for name in ("stripe", "github", "paypal", "STRIPE", ""):
            answer = await client.post(f"/v1/webhooks/{name}", content=GITHUB_BODY, headers={"X-Request-ID": "same"})
            assert (answer.status_code, answer.json()) == (404, unknown.json())
        assert (await send_stripe(client)).status_code == 404
    assert await count(database, "provider_event") == 0


async def test_unknown_providers_make_no_new_metric(sender: httpx.AsyncClient) -> None:
    await sender.post("/v1/webhooks/anybody", content=b"{}")
    await send_github(sender)
    providers = {
        sample.labels["provider"]
        for metric in REGISTRY.collect()
        if metric.name == "webhook_received"
        for sample in metric.samples
    }
    assert "github" in providers
    assert "anybody" not in providers


def test_an_empty_secret_is_refused_at_start_up() -> None:
    with pytest.raises(ValidationError):
        WebhookSecretSettings(payment_provider=PAYMENT_PROVIDER, stripe=[SecretStr("")])
