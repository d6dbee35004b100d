"""The client of the payments service. A call makes one attempt, through a circuit breaker and a bulkhead. The job that
makes the call does the retries.
"""

from collections.abc import Callable
from typing import Literal
from uuid import UUID

from chassis.auth.service_tokens import TokenSource
from chassis.calls.degraded import record_degraded
from chassis.calls.http_client import HttpDependency, Response
from chassis.calls.quota import Quota
from chassis.circuit_breaker import BreakerRegistry
from chassis.errors import DependencyError, DependencyFailed
from chassis.logging import get_logger
from pydantic import BaseModel, SecretStr

from orders.settings import OrdersSettings

log = get_logger(__name__)

PAYMENTS = "payments"
READ_PAYMENT = "read_payment"
"""The names of the dependency and of one operation, in metrics and logs."""


class Payment(BaseModel):
    """The payments service's answer. Fields that the orders service does not need are ignored."""

    id: UUID
    status: Literal["created", "submitting", "submitted", "captured", "failed", "canceled", "refunded"]
    version: int
    reason: str | None = None


def open_payments(
    settings: OrdersSettings, secret: Callable[[], SecretStr], breakers: BreakerRegistry, quota: Quota | None = None
) -> HttpDependency:
    """The connection pool, breakers and limits of calls to the payments service. `secret` returns the secret that signs
    the tokens now. The worker's calls have a `quota`: a limit that all workers share, under which a call waits for its
    turn. The API's calls only read payments, and have no quota: a call that waits could answer too late, and without an
    answer of the payments service the API reports the status that the order knows.
    """
    tokens = TokenSource(issuer=settings.service_name, audience=PAYMENTS, secret=secret)
    return HttpDependency(PAYMENTS, settings.payments, authorization=tokens, breakers=breakers, quota=quota)


class PaymentsClient:
    """The payments service's API. Every call may raise a `DependencyError`."""

    def __init__(self, dependency: HttpDependency) -> None:
        self._dependency = dependency

    async def read_payment(self, payment_id: UUID) -> Payment | None:
        """The payment, or None when the payments service gives no usable answer. Raises `DependencyRejected` (404) when
        the payments service does not have the payment.
        """
        response = await self._dependency.request(
            "GET", f"/v1/payments/{payment_id}", operation=READ_PAYMENT, idempotent=True, fallback=_no_payment
        )
        if response.degraded:
            return None
        try:
            return response.parse(Payment)
        except DependencyFailed as error:
            # A newer payments service may answer a status that this version does not know.
            log.warning("payment_unreadable", payment_id=payment_id, reason=str(error))
            record_degraded(self._dependency.name, READ_PAYMENT, "failure")
            return None

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


async def _no_payment(error: DependencyError) -> Response:
    return Response(error.dependency, 200, b"null")
