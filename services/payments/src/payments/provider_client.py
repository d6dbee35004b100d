"""How payments calls the provider. This layer is the one that retries, under one key per payment for ever."""

from typing import Annotated, Literal
from uuid import UUID

from chassis.http_client import AttemptHook, HttpDependency
from pydantic import BaseModel, Field

# What PostgreSQL can keep: no NUL, and nothing that was not meant as an id or a code.
type Text = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Charge(BaseModel):
    """What the provider answers to a charge; accepted (`pending`) is not captured."""

    id: Text
    status: Literal["pending", "captured", "failed"]
    failure_code: Text | None = None


class Problem(BaseModel):
    """Why the provider refused."""

    code: Text


class Refusal(BaseModel):
    """What the provider answers when it refuses."""

    error: Problem


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
