"""What a provider tells of a charge or refund is ordered by the object's version: late news moves nothing backwards."""

from functools import partial
from itertools import permutations
from uuid import UUID

import pytest
from harness import FakeServer, attempt, envelope, events, execute, http_client, one
from payments import jobs, use_cases
from payments.messages import ProviderChargeFailed, ProviderChargeSucceeded, ReconcileCharge
from payments.provider_client import ProviderClient
from payments.use_cases import ChargeReport, RefundReport
from test_payments import Payments, payments

__all__ = ["payments"]


async def submitted(payments: Payments, *, version: int) -> UUID:
    """A payment whose charge the provider has accepted, at that version of it."""
    payment_id = await payments.asked()
    await execute(payments.database, "DELETE FROM job")
    await payments.begin(payment_id)
    assert await payments.report(ChargeReport(payment_id, "accepted", "ch_1", object_version=version))
    return payment_id


def told(payment_id: UUID, kind: str, version: int, *, charge: str = "ch_1") -> str:
    """The provider's event as webhook-ingest publishes it."""
    fields = {"reference": str(payment_id), "provider_id": charge, "object_version": version, "amount": 12898}
    event: ProviderChargeFailed | ProviderChargeSucceeded = (
        ProviderChargeFailed(**fields, raw_event_id="evt_1", failure_code="card_declined")
        if kind == "failed"
        else ProviderChargeSucceeded(**fields, raw_event_id="evt_2")
    )
    return envelope(event, aggregate_id=payment_id, version=1)


async def test_an_event_about_an_older_version_than_the_provider_showed_moves_nothing(
    payments: Payments, server: FakeServer
) -> None:
    """A first try failed (version 2), the provider tried again by itself (3): asked, it said so. Then the event of the
    failure comes; a state machine alone would take it for the end.
    """
    payment_id = await submitted(payments, version=1)
    server.answers(200, {"data": [{"id": "ch_1", "status": "pending", "object_version": 3}]})
    async with payments.database.transaction() as session:
        await use_cases.sweep(session, stale_after=0, batch=1)
    http = http_client("provider", payments.settings.provider)
    handler = partial(jobs.reconcile_charge, payments.database, ProviderClient(http))
    assert await attempt(payments.database, ReconcileCharge, handler) is None
    await http.close()
    await payments.deliver(told(payment_id, "failed", 2))
    row = await payments.row(payment_id)
    assert (row.status, row.charge_version, row.reason) == ("submitted", 3, None)
    assert await events(payments.database, payment_id) == []
    await payments.deliver(told(payment_id, "succeeded", 4))
    row = await payments.row(payment_id)
    assert (row.status, row.charge_version) == ("captured", 4)
    assert await events(payments.database, payment_id) == [(1, "payment.captured")]


@pytest.mark.parametrize("order", list(permutations([1, 2, 2])))
async def test_in_whatever_order_the_versions_come_the_newest_is_what_counts(
    payments: Payments, order: tuple[int, ...]
) -> None:
    payment_id = await payments.asked()
    await payments.begin(payment_id)
    for version in order:
        status = "accepted" if version == 1 else "captured"
        await payments.report(ChargeReport(payment_id, status, "ch_1", object_version=version))
    row = await payments.row(payment_id)
    assert (row.status, row.charge_version) == ("captured", 2)
    assert await events(payments.database, payment_id) == [(1, "payment.captured")]


async def test_news_of_the_version_that_is_known_is_not_late(payments: Payments) -> None:
    payment_id = await submitted(payments, version=2)
    await payments.deliver(told(payment_id, "succeeded", 2))
    assert (await payments.row(payment_id)).status == "captured"


async def test_another_charges_versions_are_not_compared_with_this_ones(payments: Payments) -> None:
    payment_id = await submitted(payments, version=5)
    await payments.deliver(told(payment_id, "succeeded", 1, charge="ch_2"))
    row = await payments.row(payment_id)
    assert (row.status, row.charge_version, row.provider_charge_id) == ("captured", 5, "ch_1")


async def test_late_news_of_a_refund_moves_nothing_either(payments: Payments) -> None:
    payment_id = await payments.captured()
    await payments.void(payment_id)
    refund_id = (await one(payments.database, "SELECT id FROM refund")).id

    async def report(status: str, version: int) -> bool:
        async with payments.database.transaction() as session:
            return await use_cases.apply_refund_report(
                session, RefundReport(refund_id, status, "re_1", object_version=version)
            )

    assert await report("accepted", 3)
    assert not await report("failed", 2)
    refund = await one(payments.database, "SELECT status, provider_version FROM refund")
    assert (refund.status, refund.provider_version) == ("submitted", 3)
    assert await report("succeeded", 4)
    assert (await payments.row(payment_id)).status == "refunded"
