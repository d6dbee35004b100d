"""The API of the payments service, which other services call."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from chassis.app.api import Router, opened
from chassis.app.api.backlog import Admission
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import Database
from chassis.retries import deadlines
from fastapi import Depends, Response

from payments import use_cases
from payments.schemas import PaymentView, RequestPayment, VoidPayment

router = Router(prefix="/v1/payments")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources that the routes use, opened by the composition root in `api.py`."""

    database: Database
    admission: Admission


Given = Annotated[Resources, Depends(opened(Resources))]


@router.post(
    "",
    access="payments:write",
    criticality="critical",
    errors=[ErrorCode.STATE_CONFLICT],
    status_code=202,
    responses={200: {"model": PaymentView, "description": "The payment was requested before."}},
)
async def request_payment(body: RequestPayment, response: Response, given: Given) -> PaymentView:
    """Record a payment, which a job then charges. The request is safe to repeat: `payment_id` is the idempotency
    key.
    """
    if (refusal := given.admission.refusal()) is not None:
        async with given.database.read() as session:
            if await use_cases.find_payment(session, body.payment_id) is None:
                raise refusal
    deadlines.check("the payment was written")
    async with given.database.transaction() as session:
        payment, is_new = await use_cases.request_payment(session, body)
    response.status_code = 202 if is_new else 200
    return payment


@router.get("/{payment_id}", access="payments:read", errors=[ErrorCode.NOT_FOUND])
async def get_payment(payment_id: UUID, given: Given) -> PaymentView:
    """One payment."""
    async with given.database.read() as session:
        payment = await use_cases.find_payment(session, payment_id)
    if payment is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    return payment


@router.post(
    "/{payment_id}/refund",
    access="payments:write",
    criticality="critical",
    errors=[ErrorCode.STATE_CONFLICT],
    status_code=202,
)
async def refund_payment(payment_id: UUID, body: VoidPayment, given: Given) -> PaymentView:
    """Bring the payment's net amount to zero: cancel the payment before the charge, or refund it after the charge. The
    request is safe to repeat.
    """
    deadlines.check("the payment was voided")
    async with given.database.transaction() as session:
        return await use_cases.void_payment(session, payment_id, body)
