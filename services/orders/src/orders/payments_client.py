"""How orders calls payments: one attempt per job run, inside the breaker and the bulkhead. The job is the retry."""

from typing import Literal
from uuid import UUID

from chassis.calls.http_client import HttpDependency
from pydantic import BaseModel


class Payment(BaseModel):
    """What payments answers; fields that orders does not read are left to payments."""

    id: UUID
    status: Literal["created", "submitting", "submitted", "captured", "failed", "canceled", "refunded"]
    version: int
    reason: str | None = None


class PaymentsClient:
    """Payments, as orders sees it. Every call may raise a `DependencyError`."""

    def __init__(self, dependency: HttpDependency) -> None:
        self._dependency = dependency

    async def request_payment(
        self, *, payment_id: UUID, order_id: UUID, amount: int, currency: str, payment_method: str
    ) -> Payment:
        """Ask for the payment, or learn of it when it was asked for before: `payment_id` is the key of the call."""
        response = await self._dependency.request(
            "POST",
            "/v1/payments",
            operation="request_payment",
            json={
                "payment_id": str(payment_id),
                "order_id": str(order_id),
                "amount": amount,
                "currency": currency,
                "payment_method": payment_method,
            },
            idempotent=True,
        )
        return response.parse(Payment)

    async def void_payment(self, *, payment_id: UUID, order_id: UUID, amount: int, currency: str) -> Payment:
        """Bring the payment's net to zero, in whatever state it is, even if it was never asked for. Safe to repeat."""
        response = await self._dependency.request(
            "POST",
            f"/v1/payments/{payment_id}/refund",
            operation="void_payment",
            json={"order_id": str(order_id), "amount": amount, "currency": currency},
            idempotent=True,
        )
        return response.parse(Payment)
