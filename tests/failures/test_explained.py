"""What `holdfast explain order` tells of real orders: one that goes well, and those that things went wrong for."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from stage import Stage

HOLDFAST = Path(sys.executable).with_name("holdfast")
DATABASES = ("orders", "payments", "notifications", "webhook-ingest")


async def explain(stage: Stage, order: str, *options: str) -> str:
    dsns = {f"{name.replace('-', '_')}_dsn": stage.platform.installation.database_dsn(name) for name in DATABASES}
    told = await asyncio.to_thread(
        subprocess.run,
        [HOLDFAST, "explain", "order", order, "--config", "-", *options],
        input="".join(f"{name} = {json.dumps(dsn)}\n" for name, dsn in dsns.items()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


async def entries(stage: Stage, order: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await explain(stage, order, "--json"))["entries"]
    return found


def positions(story: str, *lines: str) -> list[int]:
    return [story.index(line) for line in lines]


async def test_an_order_that_goes_well_is_told_from_its_placing_to_its_second_mail(stage: Stage):
    [order] = await stage.buy()
    await stage.until_status("confirmed", order)
    await stage.assert_sound()
    story = await explain(stage, order)
    where = positions(
        story,
        "order pending: 1 × rope",
        "payment created",
        "charge, attempt 1: accepted",
        "webhook charge.succeeded from payment-provider: published",
        "payment captured",
        "event payment.captured, version 1 → orders",
        "order confirmed",
        "event order.confirmed, version 2 → notifications, orders",
        "mail “Your order is confirmed” to ",
    )
    assert where == sorted(where)
    assert not [entry["what"] for entry in await entries(stage, order) if entry["is_bad"]]
    assert max(len(line) for line in story.splitlines()) <= 100
    assert len(story.splitlines()) < 40


async def test_an_outage_is_told_with_each_attempt_and_what_the_breaker_refused(stage: Stage):
    await stage.provider(unavailable=True)
    orders = await stage.buy(6)
    await stage.until_open_breaker("payments-worker", "charge")

    async def is_refused() -> str | None:
        for order in orders:
            if any(entry["kind"] == "breaker" for entry in await entries(stage, order)):
                return order
        return None

    order = await stage.until(is_refused, what="the breaker refuses", every=0.5)
    await stage.provider()
    await stage.until_status("confirmed", *orders)
    await stage.assert_sound()
    told = await entries(stage, order)
    [refused, *_] = [entry for entry in told if entry["kind"] == "breaker"]
    assert refused["details"]["job"] == "charge_payment"
    assert "circuit breaker is open; again in " in refused["what"]
    calls = [entry for entry in told if entry["kind"] == "call"]
    assert [call["details"]["attempt"] for call in calls] == list(range(1, len(calls) + 1))
    assert calls[-1]["details"]["answer"] == "accepted"
    assert calls[-1]["after"] > refused["after"]
    failed = [e for o in orders for e in await entries(stage, o) if "answered 503" in e["details"].get("error", "")]
    assert failed


async def test_a_cancellation_is_told_with_its_refund(stage: Stage):
    [order] = await stage.buy()
    await stage.until_status("confirmed", order)
    await stage.client.call_off("acme", order)
    await stage.until_status("cancelled", order)
    await stage.assert_sound()
    story = await explain(stage, order)
    where = positions(
        story,
        "order confirmed",
        "order cancelling: requested",
        "refund 1 of 19.99 EUR requested",
        "webhook refund.succeeded",
        "refund 1 of 19.99 EUR succeeded",
        "payment refunded",
        "order cancelled: requested",
        "mail “Your order was cancelled”",
    )
    assert where == sorted(where)
    assert "nothing paid" in story


async def test_a_killed_worker_is_told_by_the_lease_that_ran_out(stage: Stage):
    await stage.provider(hang=True)
    [order] = await stage.buy()
    await stage.until_job("payments", "charge_payment")
    assert "job charge_payment" in await explain(stage, order)
    await stage.kill("payments-worker")
    await stage.provider()
    await stage.until_status("confirmed", order)
    await stage.assert_sound()
    told = await entries(stage, order)
    [lost] = [entry for entry in told if "expired on" in entry["what"]]
    assert lost["what"].endswith("taken over")
    assert (lost["kind"], lost["service"]) == ("job", "payments")
    answered = [entry for entry in told if entry["kind"] == "call" and entry["details"]["answer"]]
    assert [entry["after"] > lost["after"] for entry in answered] == [True]
