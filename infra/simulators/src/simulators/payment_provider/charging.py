"""The provider's rules: what is charged, declined, refunded, and what is told about it afterwards."""

import json
import re
from dataclasses import dataclass, replace
from typing import Self
from uuid import uuid4

from simulators.answers import InvalidError
from simulators.faults import Switchboard
from simulators.payment_provider.store import Event, Store, Transfer
from simulators.payment_provider.switches import ProviderSwitches
from simulators.process import log, timestamp

MAX_AMOUNT = 99_999_999
"""Minor units: eight digits, as card networks have it."""
REORDER_SECONDS = 1.0
"""How long a reordered event is held back, so that later ones overtake it."""

type Reply = tuple[int, dict[str, object]]
"""A status and a body that are kept under the idempotency key."""


@dataclass(frozen=True)
class ChargeRequest:
    reference: str
    amount: int
    currency: str
    payment_method: str

    @classmethod
    def parse(cls, payload: dict[str, object]) -> Self:
        refuse_unknown(payload, {"reference", "amount", "currency", "payment_method"})
        return cls(
            text(payload, "reference", r"\S.{0,199}"),
            amount(payload),
            text(payload, "currency", "[A-Z]{3}"),
            text(payload, "payment_method", r"\S{1,64}"),
        )


@dataclass(frozen=True)
class RefundRequest:
    charge_reference: str
    reference: str
    amount: int

    @classmethod
    def parse(cls, payload: dict[str, object]) -> Self:
        refuse_unknown(payload, {"charge_reference", "reference", "amount"})
        return cls(
            text(payload, "charge_reference", r"\S.{0,199}"),
            text(payload, "reference", r"\S.{0,199}"),
            amount(payload),
        )


def refuse_unknown(payload: dict[str, object], known: set[str]) -> None:
    for name in payload:
        if name not in known:
            raise InvalidError(name, "is not a field of this request")


def text(payload: dict[str, object], name: str, pattern: str) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise InvalidError(name, f"must be a string that matches {pattern}")
    return value


def amount(payload: dict[str, object]) -> int:
    value = payload.get("amount")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_AMOUNT:
        raise InvalidError("amount", f"must be a whole number of minor units, 1 to {MAX_AMOUNT}")
    return value


@dataclass(frozen=True)
class Post:
    """The POST that asks: its idempotency key, when it came (Unix seconds), and the trace that it is part of."""

    key: str
    at: float
    traceparent: str | None


class Charging:
    """Changes the books. Each method is to be called inside `store.transaction()`."""

    def __init__(self, store: Store, faults: Switchboard[ProviderSwitches]) -> None:
        self._store = store
        self._faults = faults

    def charge(self, asked: ChargeRequest, post: Post) -> Reply:
        declined = self._faults.draw("decline_rate") or asked.payment_method == "pm_card_declined"
        fails_later = asked.payment_method == "pm_card_fails_later"
        outcome = "card_declined" if declined else "insufficient_funds" if fails_later else "captured"
        charge = Transfer(
            id=f"ch_{uuid4().hex}",
            object="charge",
            reference=asked.reference,
            idempotency_key=post.key,
            amount=asked.amount,
            currency=asked.currency,
            status="failed" if declined else "pending",
            object_version=1,
            created_at=timestamp(),
            failure_code=outcome if declined else None,
            outcome=outcome,
            settles_at=None if declined else post.at + self._faults.on.capture_delay_seconds,
            traceparent=post.traceparent,
        )
        self._store.add(charge)
        if not declined:
            return 202, shown(charge)
        self._announce(charge, post.at)
        message = "the card was declined"
        return 402, {"error": {"code": "card_declined", "message": message}, "charge": shown(charge)}

    def refund(self, asked: RefundRequest, post: Post) -> Reply:
        """Takes from the first captured charge of that reference which has enough left."""
        captured = [
            charge for charge in self._store.transfers("charge", asked.charge_reference) if charge.status == "captured"
        ]
        if not captured:
            return refusal("charge_not_captured", f"no captured charge has the reference {asked.charge_reference}")
        left = {charge.id: charge.amount - self._store.refunded(charge.id) for charge in captured}
        charge = next((charge for charge in captured if left[charge.id] >= asked.amount), None)
        if charge is None:
            return refusal("refund_exceeds_charge", f"at most {max(left.values())} can still be refunded")
        fails = self._faults.draw("refund_failure_rate")
        refund = Transfer(
            id=f"re_{uuid4().hex}",
            object="refund",
            reference=asked.reference,
            idempotency_key=post.key,
            amount=asked.amount,
            currency=charge.currency,
            status="pending",
            object_version=1,
            created_at=timestamp(),
            outcome="refund_failed" if fails else "succeeded",
            charge_id=charge.id,
            charge_reference=charge.reference,
            settles_at=post.at + self._faults.on.capture_delay_seconds,
            traceparent=post.traceparent,
        )
        self._store.add(refund)
        return 202, shown(refund)

    def settle_due(self, now: float) -> None:
        """Bring each pending transfer whose time has come to its outcome, and queue the event of it."""
        for pending in self._store.due_transfers(now):
            succeeds = pending.outcome in {"captured", "succeeded"}
            settled = replace(
                pending,
                status=pending.outcome if succeeds else "failed",
                failure_code=None if succeeds else pending.outcome,
                object_version=pending.object_version + 1,
            )
            self._store.settle(settled)
            self._announce(settled, now)
            log(f"{settled.object}_settled", id=settled.id, reference=settled.reference, status=settled.status)

    def _announce(self, transfer: Transfer, now: float) -> None:
        """Queue the event in the same transaction: the books and the news never disagree."""
        switches = self._faults.on
        wait = switches.webhook_delay_seconds
        wait += REORDER_SECONDS if self._faults.draw("webhook_reorder_rate") else 0
        dropped = self._faults.draw("webhook_drop_rate")
        event_id = f"evt_{uuid4().hex}"
        event_type = f"{transfer.object}.{'failed' if transfer.status == 'failed' else 'succeeded'}"
        body = {
            "id": event_id,
            "type": event_type,
            "created_at": timestamp(skew_seconds=switches.clock_skew_seconds),
            "data": told(transfer),
        }
        self._store.add(
            Event(
                id=event_id,
                type=event_type,
                reference=transfer.reference,
                body=json.dumps(body),
                next_attempt_at=None if dropped else now + wait,
                traceparent=transfer.traceparent,
            )
        )


def refusal(code: str, message: str) -> Reply:
    return 422, {"error": {"code": code, "message": message}}


def told(transfer: Transfer) -> dict[str, object]:
    """What a webhook says about a charge or refund."""
    fields = ("id", "object", "reference", "object_version", "status", "amount", "currency")
    data: dict[str, object] = {name: getattr(transfer, name) for name in fields}
    return data | ({"failure_code": transfer.failure_code} if transfer.failure_code else {})


def shown(transfer: Transfer) -> dict[str, object]:
    """What the API answers about a charge or refund."""
    refunded = {"charge_reference": transfer.charge_reference} if transfer.charge_reference else {}
    return told(transfer) | refunded | {"created_at": transfer.created_at}
