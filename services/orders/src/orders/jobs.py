"""The handlers of orders' jobs. Each reads the state of today, since a payload has only ids."""

from functools import partial

from chassis import deadlines
from chassis.caching import Cache
from chassis.errors import DependencyRejected, PermanentJobError
from chassis.jobs import RunningJob
from chassis.pooling import Database, after_commit

from orders import use_cases
from orders.messages import RequestPayment
from orders.models import OrderStatus
from orders.payments_client import PaymentsClient
from orders.schemas import OwnedOrder
from orders.use_cases import PaymentNews

REQUEST_PAYMENT_DEADLINE = 5.0  # seconds: one call has 2, the rest is for its queries; below the job's time limit

_UNPROCESSABLE = 422


async def request_payment(
    database: Database, cache: Cache[OwnedOrder], payments: PaymentsClient, job: RunningJob, payload: RequestPayment
) -> None:
    """Protocol, row 2: ask payments for the order's payment, once per run; a failure is the job's to repeat."""
    async with database.read() as session:
        order = await use_cases.read_order(session, payload.order_id)
    if order.status != OrderStatus.PENDING:
        return
    with deadlines.deadline(REQUEST_PAYMENT_DEADLINE):
        try:
            payment = await payments.request_payment(
                payment_id=order.payment_id,
                order_id=order.id,
                amount=order.amount,
                currency=order.currency,
                payment_method=order.payment_method,
            )
        except DependencyRejected as error:
            if error.status == _UNPROCESSABLE:
                # Payments does not understand us: repeating cannot help, somebody has to look.
                raise PermanentJobError(str(error)) from error
            raise
    async with database.transaction() as session:
        news = PaymentNews(payment.id, version=payment.version, status=payment.status, reason=payment.reason)
        if await use_cases.apply_payment(session, news):
            after_commit(session, partial(cache.invalidate_soon, str(order.id)))
        await job.complete_in(session)
