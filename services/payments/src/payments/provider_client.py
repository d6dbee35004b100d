"""How payments calls the provider. This layer is the one that retries, under one key per payment for ever."""

from typing import Annotated, Literal
from uuid import UUID

from chassis.calls.http_client import AttemptHook, HttpDependency, Response
from pydantic import BaseModel, Field

# What PostgreSQL can keep: no NUL, and nothing that was not meant as an id or a code.
type Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

# It grows with each change of the object; PostgreSQL's bigint has to hold it.
type Version = Annotated[int, Field(ge=0, lt=2**63)]


class Charge(BaseModel):
    """What the provider answers to a charge; accepted (`pending`) is not captured."""

    id: Text
    object_version: Version | None = None
    status: Literal["pending", "captured", "failed"]
    failure_code: Text | None = None


class Problem(BaseModel):
    """Why the provider refused."""

    code: Text


class Refusal(BaseModel):
    """What the provider answers when it refuses."""

    error: Problem


class Refund(BaseModel):
    """What the provider answers to a refund."""

    id: Text
    object_version: Version | None = None
    status: Literal["pending", "succeeded", "failed"]
    failure_code: Text | None = None


class _Found[T: BaseModel](BaseModel):
    data: list[T]


class ProviderClient:
    """The payment provider, as payments sees it. Every call may raise a `DependencyError`."""

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
        """Charge `amount` (minor units), at most once: the key is the payment's, whoever repeats the call and when.

        `before_attempt` runs before each POST, `on_not_run` after one that is known not to have reached the provider.
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
        """The charges that the provider has under our reference: none or one, if both sides keep their word."""
        response = await self._ask("/charges", "find_charges", payment_id)
        return response.parse(_Found[Charge]).data

    async def refund(self, *, refund_id: UUID, payment_id: UUID, amount: int) -> Refund:
        """Refund `amount` (minor units) of the payment's charge, at most once per refund: the key is the refund's."""
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
        """The refunds that the provider has under our reference."""
        response = await self._ask("/refunds", "find_refunds", refund_id)
        return response.parse(_Found[Refund]).data

    async def _ask(self, path: str, operation: str, reference: UUID) -> Response:
        return await self._dependency.request(
            "GET", path, operation=operation, params={"reference": str(reference)}, idempotent=True, retrying=True
        )
