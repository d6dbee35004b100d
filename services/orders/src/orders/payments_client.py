"""The client of the payments service. A call makes one attempt, through a circuit breaker and a bulkhead. The job that
makes the call does the retries.
"""

from typing import Literal
from uuid import UUID

from chassis.calls.http_client import HttpDependency
from pydantic import BaseModel


class Payment(BaseModel):
    """The payments service's answer. Fields that the orders service does not need are ignored."""

    id: UUID
    status: Literal["created", "submitting", "submitted", "captured", "failed", "canceled", "refunded"]
    version: int
    reason: str | None = None


class PaymentsClient:
    """The payments service's API. Every call may raise a `DependencyError`."""

    def __init__(self, dependency: HttpDependency) -> None:
        self._dependency = dependency

    async def request_payment(
        self, *, payment_id: UUID, order_id: UUID, amount: int, currency: str, payment_method: str
    ) -> Payment:
        """Request the payment, or read the payment if it was requested before. `payment_id` is the idempotency key."""
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
        """Cancel or refund the payment in any state, even if it was never requested. The call is safe to repeat."""
        response = await self._dependency.request(
            "POST",
            f"/v1/payments/{payment_id}/refund",
            operation="void_payment",
            json={"order_id": str(order_id), "amount": amount, "currency": currency},
            idempotent=True,
        )
        return response.parse(Payment)
