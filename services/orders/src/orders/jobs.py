"""The handlers of the orders service's jobs. A job's payload has only ids, so each handler reads the order's current
state.
"""

from collections.abc import Awaitable
from functools import partial
from uuid import UUID

from chassis.caching import Cache
from chassis.errors import DependencyRejected, PermanentJobError
from chassis.jobs import RunningJob
from chassis.pooling import Database, after_commit
from chassis.retries import deadlines

from orders import use_cases
from orders.caches import order_key
from orders.messages import RequestPayment, SettlePayment
from orders.models import OrderRef, OrderStatus
from orders.payments_client import Payment, PaymentsClient
from orders.schemas import OrderView
from orders.use_cases import OrderToPay, PaymentNews

# Seconds for one call to the payments service. The jobs' time limit is 10 s, so at least 5 s are left for queries.
CALL_DEADLINE = 5.0

_UNPROCESSABLE = 422


async def request_payment(
    database: Database, cache: Cache[OrderView], payments: PaymentsClient, job: RunningJob, payload: RequestPayment
) -> None:
    """Step 2 of an order (docs/reference/protocol.md): request the order's payment from the payments service. Each
    attempt of the job makes one call, and a failed job is retried.
    """
    order = await _read(database, payload.order_id)
    if order.status != OrderStatus.PENDING:
        return
    payment = await _call(
        payments.request_payment(
            payment_id=order.payment_id,
            order_id=order.id,
            amount=order.amount,
            currency=order.currency,
            payment_method=order.payment_method,
        )
    )
    await _apply(database, cache, job, payment)


async def settle_payment(
    database: Database, cache: Cache[OrderView], payments: PaymentsClient, job: RunningJob, payload: SettlePayment
) -> None:
    """Step 12 of an order (docs/reference/protocol.md): request that the payments service cancels or refunds the
    payment. The answer, or a later event, reports that the payment is cancelled or refunded.

    This job invalidates the cached order again, because no event reports the move to `cancelling`. The API process that
    made the move may have died before it invalidated the cached order, or Redis may not have answered.
    """
    order = await _read(database, payload.order_id)
    cache.invalidate_soon(order_key(OrderRef(order.id, order.client_id)))
    if order.status not in {OrderStatus.CANCELLING, OrderStatus.CANCELLED}:
        return
    payment = await _call(
        payments.void_payment(
            payment_id=order.payment_id, order_id=order.id, amount=order.amount, currency=order.currency
        )
    )
    await _apply(database, cache, job, payment)


async def _read(database: Database, order_id: UUID) -> OrderToPay:
    async with database.read() as session:
        return await use_cases.read_order(session, order_id)


async def _call(answer: Awaitable[Payment]) -> Payment:
    with deadlines.deadline(CALL_DEADLINE):
        try:
            return await answer
        except DependencyRejected as error:
            if error.status == _UNPROCESSABLE:
                # The payments service refused the request as invalid. A retry would be refused, too, so the job becomes
                # a dead letter, which an operator must examine.
                raise PermanentJobError(str(error)) from error
            raise


async def _apply(database: Database, cache: Cache[OrderView], job: RunningJob, payment: Payment) -> None:
    """Apply the payment's status from the answer and complete the job, in one transaction. A status that changes
    nothing about the order needs no transaction here, because the job runner completes the job.
    """
    news = PaymentNews(payment.id, version=payment.version, status=payment.status, reason=payment.reason)
    if not news.is_settled:
        return
    async with database.transaction() as session:
        if changed := await use_cases.apply_payment(session, news):
            after_commit(session, partial(cache.invalidate_soon, order_key(changed)))
        await job.complete_in(session)
