"""How long orders take until they are final: measured once each, from what the database says of their times."""

from contextlib import suppress
from typing import Any

import pytest
import test_orders
from harness import execute
from orders.use_cases import PaymentNews, PaymentStatus, apply_payment
from prometheus_client import REGISTRY
from test_orders import Orders

service = test_orders.orders


def settled(outcome: str) -> tuple[float, float]:
    """How many orders became that, and their seconds together."""
    count, total = (
        REGISTRY.get_sample_value(f"order_settle_seconds_{part}", {"outcome": outcome}) or 0.0
        for part in ("count", "sum")
    )
    return count, total


async def aged(service: Orders, *, seconds: int) -> Any:
    row = await service.row((await service.placed())["id"])
    await execute(service.database, f"UPDATE orders SET created_at = now() - interval '{seconds} s'")
    return row


@pytest.mark.parametrize(("status", "outcome"), [("captured", "confirmed"), ("failed", "cancelled")])
async def test_an_order_that_becomes_final_is_measured_from_its_placing(
    service: Orders, status: PaymentStatus, outcome: str
) -> None:
    row = await aged(service, seconds=40)
    count, total = settled(outcome)
    await service.apply(row.payment_id, status, 1)
    assert settled(outcome) == (count + 1, pytest.approx(total + 40, abs=5))


async def test_a_refund_of_a_confirmed_order_is_no_settling(service: Orders) -> None:
    row = await aged(service, seconds=0)
    await service.apply(row.payment_id, "captured", 1)
    before = settled("confirmed"), settled("cancelled")
    await service.client.post(f"/v1/orders/{row.id}/cancel")
    await service.apply(row.payment_id, "refunded", 2)
    assert (await service.row(str(row.id))).status == "cancelled"
    assert (settled("confirmed"), settled("cancelled")) == before


async def test_an_order_whose_transaction_rolls_back_is_not_measured(service: Orders) -> None:
    row = await aged(service, seconds=0)
    before = settled("confirmed")
    with suppress(ZeroDivisionError):
        async with service.database.transaction() as session:
            await apply_payment(session, PaymentNews(row.payment_id, version=1, status="captured"))
            raise ZeroDivisionError
    assert settled("confirmed") == before
