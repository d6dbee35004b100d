"""The provider is down, hangs, loses and repeats its webhooks; customers cancel meanwhile. Money stays exact."""

import asyncio

import pytest
from stage import Stage


async def test_the_provider_is_down_for_longer_than_a_deadline_then_hangs_then_is_back(stage: Stage):
    """No order is lost or charged twice, none becomes a dead letter, and the jobs do not multiply while it lasts."""
    await stage.provider(unavailable=True)
    orders = await stage.buy(6)
    await stage.until_open_breaker("payments-worker", "charge")
    await asyncio.sleep(11)  # the deadline of a charge is 10 s
    jobs = await stage.fetch("payments", "SELECT payload->>'payment_id' AS payment, count(*) FROM job GROUP BY 1")
    assert {job["count"] for job in jobs} == {1}
    await stage.provider(hang=True)
    orders += await stage.buy(2)
    await stage.until_job("payments", "charge_payment")
    await asyncio.sleep(5)
    await stage.provider()
    await stage.until_status("confirmed", *orders)
    for order in orders:
        assert await stage.charges(order) == ["captured"]
    await stage.assert_sound()


async def test_the_provider_is_away_while_it_is_asked_what_became_of_a_charge(stage: Stage):
    """Its webhooks never came, so sweeps ask; nobody has to look at dead letters because it did not answer."""
    await stage.provider(webhook_drop_rate=1.0, capture_delay_seconds=0.5)
    [order] = await stage.buy()
    await stage.until_payment(order, "submitted")
    await stage.provider(webhook_drop_rate=1.0, unavailable=True)

    async def was_asked_often() -> bool:
        query = "SELECT FROM job WHERE name = 'reconcile_charge' AND (attempt > 6 OR status = 'dead')"
        return bool(await stage.fetch("payments", query))

    await stage.until(was_asked_often, what="it was asked six times")
    jobs = await stage.fetch("payments", "SELECT status FROM job")
    await stage.provider(webhook_drop_rate=1.0)
    await stage.until_status("confirmed", order)
    assert len(jobs) == 1
    await stage.assert_sound()


async def test_answers_of_the_provider_are_lost_after_it_has_acted(stage: Stage):
    await stage.provider(answer_lost_rate=0.7, error_rate_after=0.3, seed=7)
    orders = await stage.buy(10)
    await stage.until_status("confirmed", *orders)
    for order in orders:
        assert await stage.charges(order) == ["captured"]
    await stage.provider()
    await stage.assert_sound()


async def test_webhooks_come_twice_out_of_order_late_and_forged(stage: Stage):
    """Forged ones tell the opposite: they are refused, and change nothing."""
    await stage.provider(
        webhook_duplicate_rate=1.0,
        webhook_reorder_rate=0.5,
        webhook_delay_seconds=0.5,
        webhook_forged_rate=1.0,
        seed=11,
    )
    paid = await stage.buy(5)
    failing = await stage.buy(3, card="pm_card_fails_later")
    await stage.until_status("confirmed", *paid)
    await stage.until_status("cancelled", *failing)
    called_off = paid[:2]
    for order in called_off:
        await stage.client.call_off("acme", order)
    await stage.until_status("cancelled", *called_off)
    await stage.assert_sound()
    await stage.until_webhooks("duplicate", 10)
    await stage.until_webhooks("bad_signature", 10)


async def test_webhooks_that_never_come_are_made_up_for_by_asking(stage: Stage):
    await stage.provider(webhook_drop_rate=1.0)
    received = (await stage.metrics("webhook-ingest-api")).total("webhook_received_total", result="accepted")
    paid = await stage.buy(3)
    failing = await stage.buy(1, card="pm_card_fails_later")
    await stage.until_status("confirmed", *paid)
    await stage.until_status("cancelled", *failing)
    await stage.client.call_off("acme", paid[0])
    await stage.until_status("cancelled", paid[0])
    assert (await stage.metrics("webhook-ingest-api")).total("webhook_received_total", result="accepted") == received
    await stage.assert_sound()


async def test_a_webhook_of_a_provider_whose_clock_is_wrong_is_refused_until_it_is_right(stage: Stage):
    await stage.provider(clock_skew_seconds=-600.0)
    [order] = await stage.buy()
    await stage.until_webhooks("stale", 1)
    await stage.provider()
    await stage.until_status("confirmed", order)
    await stage.assert_sound()


async def test_cancelled_before_the_payment_is_asked_for_it_is_never_charged(stage: Stage):
    """Orders' worker stands still, so that the cancellation is there before the request for the payment."""
    stage.pause("orders-worker")
    [order] = await stage.buy()
    await stage.client.call_off("acme", order)
    stage.resume("orders-worker")
    await stage.until_status("cancelled", order)
    assert await stage.charges(order) == []
    await stage.assert_sound()


async def test_cancelled_while_a_slow_provider_charges_it_is_charged_and_refunded_once(stage: Stage):
    await stage.provider(latency_seconds=1.5)
    [order] = await stage.buy()
    await stage.until_payment(order, "submitting")
    await stage.client.call_off("acme", order)
    await stage.until_status("cancelled", order)
    assert await stage.charges(order) == ["captured"]
    assert await stage.refunds(order) == ["succeeded"]
    await stage.assert_sound()


async def test_cancelled_while_the_provider_refuses_connections_and_hangs_it_ends_without_a_charge_kept(stage: Stage):
    """The attempt may have had an effect: only the answer under the same key tells."""
    await stage.provider(hang=True)
    [order] = await stage.buy()
    await stage.until_payment(order, "submitting")
    await stage.client.call_off("acme", order)
    stage.signal("payment-provider")
    await stage.platform.until_ready("payment-provider")
    await stage.provider()
    await stage.until_status("cancelled", order)
    captured = (await stage.charges(order)).count("captured")
    assert captured == (await stage.refunds(order)).count("succeeded")
    await stage.assert_sound()


async def test_cancelled_while_the_charge_is_accepted_but_not_captured_it_is_refunded_once(stage: Stage):
    await stage.provider(capture_delay_seconds=2.0)
    [order] = await stage.buy()
    await stage.until_payment(order, "submitted")
    await stage.client.call_off("acme", order)
    await stage.until_status("cancelled", order)
    assert await stage.charges(order) == ["captured"]
    assert await stage.refunds(order) == ["succeeded"]
    await stage.assert_sound()


@pytest.mark.parametrize("times", [1, 5])
async def test_cancelled_after_it_was_confirmed_it_is_refunded_once_however_often_it_is_asked_for(
    stage: Stage, times: int
):
    [order] = await stage.buy()
    await stage.until_status("confirmed", order)
    await stage.provider(latency_seconds=1.0, answer_lost_rate=0.3, seed=times)
    await asyncio.gather(*(stage.client.call_off("acme", order) for _ in range(times)))
    await stage.until_status("cancelled", order)
    assert await stage.refunds(order) == ["succeeded"]
    await stage.assert_sound()


async def test_a_refund_that_fails_is_made_again_under_a_new_key(stage: Stage):
    [order] = await stage.buy()
    await stage.until_status("confirmed", order)
    await stage.provider(refund_failure_rate=1.0, capture_delay_seconds=1.0)
    await stage.client.call_off("acme", order)
    await stage.until(lambda: stage.refunds(order), what="a first refund is accepted")
    await stage.provider()
    await stage.until_status("cancelled", order)
    assert sorted(await stage.refunds(order)) == ["failed", "succeeded"]
    await stage.assert_sound()
