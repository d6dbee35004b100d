"""The events that payments consumes: what the provider reported of its charges."""

from typing import Literal
from uuid import UUID

from chassis.inbox import Received, Undeliverable
from sqlalchemy.ext.asyncio import AsyncSession

from payments import use_cases
from payments.messages import ProviderChargeEvent, ProviderChargeFailed, ProviderChargeSucceeded
from payments.use_cases import ChargeReport


async def on_charge_succeeded(session: AsyncSession, received: Received[ProviderChargeSucceeded]) -> None:
    """Protocol, row 10: captured, unless the payment has moved on. The event may come before the charge's answer."""
    await _apply(session, received.payload, "captured", None)


async def on_charge_failed(session: AsyncSession, received: Received[ProviderChargeFailed]) -> None:
    """Protocol, row 10: failed, unless the payment has moved on."""
    charge = received.payload
    await _apply(session, charge, "failed", charge.failure_code)


async def _apply(
    session: AsyncSession, charge: ProviderChargeEvent, status: Literal["captured", "failed"], reason: str | None
) -> None:
    """Matched by our reference, since the provider's own id may not be known here yet."""
    try:
        report = ChargeReport(UUID(charge.reference), status, provider_charge_id=charge.provider_id, reason=reason)
        await use_cases.apply_charge_report(session, report)
    except (LookupError, ValueError) as error:
        raise Undeliverable(f"reference {charge.reference}: {error}") from error
