"""Webhooks that nobody could read or handle are worked on again when an operator says so, from the bodies as signed."""

import json
from pathlib import Path

import pytest
from api_keys import PEPPER
from chassis.config.settings import DatabaseSettings, RedisSettings
from harness import count, job_statuses, one, rows
from service_process import Ended, OrdersInstallation
from test_webhook_ingest import SECRET, Ingest, body_of, ingest
from webhook_ingest import use_cases
from webhook_ingest.messages import ChargeSucceeded
from webhook_ingest.models import Provider
from webhook_ingest.use_cases import Redrivable

__all__ = ["ingest"]

IGNORED, DEAD = Redrivable.IGNORED, Redrivable.DEAD


async def redrive(
    ingest: Ingest, which: Redrivable, *, provider: Provider | None = None, dry_run: bool = False
) -> list[str]:
    async with ingest.database.transaction() as session:
        found = await use_cases.redrive(session, which=which, provider=provider, dry_run=dry_run)
    return [event_id for _, event_id in found]


async def statuses(ingest: Ingest) -> list[str]:
    return [row.status for row in await rows(ingest.database, "SELECT status FROM provider_event ORDER BY id")]


async def test_an_ignored_webhook_is_published_once_somebody_handles_its_type(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ingest.send(body_of("charge.settled"))
    await ingest.publish()
    assert await statuses(ingest) == ["ignored"]
    monkeypatch.setitem(use_cases._EVENTS, "charge.settled", ChargeSucceeded)  # a new version of the service
    assert await redrive(ingest, IGNORED) == ["evt_1"]
    assert await ingest.publish() is None
    assert await statuses(ingest) == ["published"]
    assert await count(ingest.database, "outbox") == 1


async def test_one_that_still_nobody_handles_is_ignored_again(ingest: Ingest) -> None:
    await ingest.send(body_of("charge.settled"))
    await ingest.publish()
    await redrive(ingest, IGNORED)
    await ingest.publish()
    assert await statuses(ingest) == ["ignored"]
    assert await count(ingest.database, "outbox") == await count(ingest.database, "job") == 0


async def test_a_dead_one_is_tried_again_and_its_dead_letter_is_gone(ingest: Ingest) -> None:
    await ingest.send(body_of(amount="much"))
    await ingest.publish()
    assert await job_statuses(ingest.database, "publish_event") == ["dead"]
    assert await redrive(ingest, DEAD) == ["evt_1"]
    assert await job_statuses(ingest.database, "publish_event") == ["ready"]
    await ingest.publish()
    assert await statuses(ingest) == ["dead"]
    assert await job_statuses(ingest.database, "publish_event") == ["dead"]


async def test_what_is_published_or_of_another_status_or_sender_is_left_alone(ingest: Ingest) -> None:
    for event_id, body in (("evt_1", body_of()), ("evt_2", body_of("charge.settled")), ("evt_3", body_of(amount="x"))):
        await ingest.send(body, event_id)
        await ingest.publish()
    assert await redrive(ingest, IGNORED, provider=Provider.STRIPE) == []
    assert await redrive(ingest, IGNORED, dry_run=True) == ["evt_2"]
    assert await statuses(ingest) == ["published", "ignored", "dead"]
    assert await redrive(ingest, IGNORED, provider=Provider.PAYMENT_PROVIDER) == ["evt_2"]
    assert await statuses(ingest) == ["published", "stored", "dead"]


async def test_the_command_says_which_ones_and_who_did_it(
    ingest: Ingest, database_of_ingest: DatabaseSettings, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    await ingest.send(body_of("charge.settled"))
    await ingest.publish()
    installed = OrdersInstallation.bare(tmp_path, database_of_ingest, redis_settings, command="webhook-ingest")
    installed.secret("auth__peppers", json.dumps([PEPPER]))
    installed.secret("webhook_secrets__payment_provider", json.dumps([SECRET]))

    async def run(*options: str) -> Ended:
        return await installed.run("webhooks", "redrive", "ignored", *options)

    assert (await run("--dry-run")).stdout == "would redrive 1: payment-provider/evt_1\n"
    ended = await run()
    assert (ended.code, ended.stdout) == (0, "redriving 1: payment-provider/evt_1\n")
    audit = json.loads(ended.stderr)
    assert (audit["event"], audit["events"]) == ("webhooks_redriven", ["payment-provider/evt_1"])
    assert (await one(ingest.database, "SELECT status FROM job")).status == "ready"
    assert (await run("--provider", "nobody")).code == 2


@pytest.fixture
async def database_of_ingest(ingest: Ingest, database_settings: DatabaseSettings) -> DatabaseSettings:
    """Of the service under test: of the same server as any other."""
    name = (await one(ingest.database, "SELECT current_database() AS name")).name
    return database_settings.model_copy(update={"name": name})
