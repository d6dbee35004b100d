"""The use cases of the payments service. Each use case runs in the caller's transaction and calls no other service.

`models` defines the states and the legal moves. docs/reference/protocol.md describes the steps. Read `requests` first,
then `charges` and `refunds`; `states` reads a payment, moves it to its next status and publishes the event of the move.
`sweeps` enqueues lost jobs again, and `windows` has the time limits of idempotency keys.
"""

from payments.use_cases.charges import (
    ChargeReport,
    apply_charge_report,
    attempt_not_run,
    begin_attempt,
    no_charge_found,
)
from payments.use_cases.refunds import RefundReport, apply_refund_report, no_refund_found, refund_to_ask_for
from payments.use_cases.requests import find_payment, request_payment, void_payment
from payments.use_cases.states import PaymentRow, read_payment
from payments.use_cases.sweeps import sweep

__all__ = [
    "ChargeReport",
    "PaymentRow",
    "RefundReport",
    "apply_charge_report",
    "apply_refund_report",
    "attempt_not_run",
    "begin_attempt",
    "find_payment",
    "no_charge_found",
    "no_refund_found",
    "read_payment",
    "refund_to_ask_for",
    "request_payment",
    "sweep",
    "void_payment",
]
