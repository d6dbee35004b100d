"""The handlers of the events that the payments service consumes: the provider's reports of charges and refunds."""

from typing import Literal
from uuid import UUID

from chassis.events import Received, Undeliverable
from chassis.pooling import Session

from payments import use_cases
from payments.messages import (
    ProviderChargeEvent,
    ProviderChargeFailed,
    ProviderChargeSucceeded,
    ProviderRefundEvent,
    ProviderRefundFailed,
    ProviderRefundSucceeded,
)
from payments.use_cases import ChargeReport, RefundReport


async def on_charge_succeeded(session: Session, received: Received[ProviderChargeSucceeded]) -> None:
    """Step 10 of an order (docs/reference/protocol.md): move the payment to `captured`, if the payment's status allows
    this move. The event may arrive before the provider's answer to the charge.
    """
    await _apply_charge(session, received.payload, "captured", None)


async def on_charge_failed(session: Session, received: Received[ProviderChargeFailed]) -> None:
    """Step 10 of an order (docs/reference/protocol.md): move the payment to `failed`, if the payment's status allows
    this move.
    """
    charge = received.payload
    await _apply_charge(session, charge, "failed", charge.failure_code)


async def on_refund_succeeded(session: Session, received: Received[ProviderRefundSucceeded]) -> None:
    """Step 13 of an order (docs/reference/protocol.md): move the refund to `succeeded` and the payment to
    `refunded`.
    """
    await _apply_refund(session, received.payload, "succeeded", None)


async def on_refund_failed(session: Session, received: Received[ProviderRefundFailed]) -> None:
    """Step 13 of an order (docs/reference/protocol.md): move the refund to `failed` and request another refund."""
    await _apply_refund(session, received.payload, "failed", received.payload.failure_code)


async def _apply_refund(
    session: Session, refund: ProviderRefundEvent, status: Literal["succeeded", "failed"], reason: str | None
) -> None:
    try:
        report = RefundReport(
            UUID(refund.reference),
            status,
            provider_refund_id=refund.provider_id,
            reason=reason,
            object_version=refund.object_version,
        )
        await use_cases.apply_refund_report(session, report)
    except (LookupError, ValueError) as error:
        raise Undeliverable(f"reference {refund.reference}: {error}") from error


async def _apply_charge(
    session: Session, charge: ProviderChargeEvent, status: Literal["captured", "failed"], reason: str | None
) -> None:
    """Apply a report about a charge. Our own reference identifies the charge, because this service may not know the
    provider's id of the charge yet.
    """
    try:
        report = ChargeReport(
            UUID(charge.reference),
            status,
            provider_charge_id=charge.provider_id,
            reason=reason,
            object_version=charge.object_version,
        )
        await use_cases.apply_charge_report(session, report)
    except (LookupError, ValueError) as error:
        raise Undeliverable(f"reference {charge.reference}: {error}") from error
