"""The client of the payment provider. The client retries failed calls, and all attempts to charge a payment have the
same idempotency key.
"""

from typing import Annotated, Literal
from uuid import UUID

from chassis.calls.http_client import AttemptHook, HttpDependency, Response
from pydantic import BaseModel, Field

# This type refuses control characters: PostgreSQL cannot store NUL in a text, and an id or a code never needs such
# characters.
type Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

# The provider's count of an object's changes. The number must fit into PostgreSQL's bigint.
type Version = Annotated[int, Field(ge=0, lt=2**63)]


class Charge(BaseModel):
    """The provider's answer to a charge. `pending` means that the charge is accepted, but not captured yet."""

    id: Text
    object_version: Version | None = None
    status: Literal["pending", "captured", "failed"]
    failure_code: Text | None = None


class Problem(BaseModel):
    """The provider's reason for a refusal."""

    code: Text


class Refusal(BaseModel):
    """The provider's answer when it refuses a request."""

    error: Problem


class Refund(BaseModel):
    """The provider's answer to a refund."""

    id: Text
    object_version: Version | None = None
    status: Literal["pending", "succeeded", "failed"]
    failure_code: Text | None = None


class _Found[T: BaseModel](BaseModel):
    data: list[T]


class ProviderClient:
    """The payment provider's API. Every call may raise a `DependencyError`."""

    def __init__(self, dependency: HttpDependency) -> None:
        self._dependency = dependency

    async def charge(
        self,
        *,
        payment_id: UUID,
        amount: int,
        currency: str,
        payment_method: str,
        before_attempt: AttemptHook,
        on_not_run: AttemptHook,
    ) -> Charge:
        """Charge `amount` (minor units). Repeated calls charge at most once, because `payment_id` is the idempotency
        key.

        `before_attempt` runs before each POST, and `on_not_run` after a POST that certainly did not reach the provider.
        """
        response = await self._dependency.request(
            "POST",
            "/charges",
            operation="charge",
            json={
                "reference": str(payment_id),
                "amount": amount,
                "currency": currency,
                "payment_method": payment_method,
            },
            headers={"Idempotency-Key": f"charge:{payment_id}"},
            idempotent=True,
            retrying=True,
            before_attempt=before_attempt,
            on_not_run=on_not_run,
        )
        return response.parse(Charge)

    async def find_charges(self, payment_id: UUID) -> list[Charge]:
        """The charges that the provider has for this payment: at most one, unless the provider breaks its promise."""
        response = await self._ask("/charges", "find_charges", payment_id)
        return response.parse(_Found[Charge]).data

    async def refund(self, *, refund_id: UUID, payment_id: UUID, amount: int) -> Refund:
        """Refund `amount` (minor units) of the payment's charge. Repeated calls refund once, because `refund_id` is the
        idempotency key.
        """
        response = await self._dependency.request(
            "POST",
            "/refunds",
            operation="refund",
            json={"charge_reference": str(payment_id), "reference": str(refund_id), "amount": amount},
            headers={"Idempotency-Key": f"refund:{refund_id}"},
            idempotent=True,
            retrying=True,
        )
        return response.parse(Refund)

    async def find_refunds(self, refund_id: UUID) -> list[Refund]:
        """The refunds that the provider has for our refund with this id."""
        response = await self._ask("/refunds", "find_refunds", refund_id)
        return response.parse(_Found[Refund]).data

    async def _ask(self, path: str, operation: str, reference: UUID) -> Response:
        return await self._dependency.request(
            "GET", path, operation=operation, params={"reference": str(reference)}, idempotent=True, retrying=True
        )
