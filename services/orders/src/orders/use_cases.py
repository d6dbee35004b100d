"""What orders does: verbs over (session, command). Each writes in the caller's transaction and calls nobody.

The states and moves are `models.ORDER`; the steps are those of docs/reference/protocol.md.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

from asyncpg import UniqueViolationError
from chassis import jobs
from chassis.errors import ApiError, ErrorCode, ErrorDetail, IllegalTransition
from chassis.errors.fields import MAX_AMOUNT
from chassis.events import outbox
from chassis.jobs import enqueue, has_live_job
from chassis.logging import get_logger
from chassis.pooling import HotSession, after_commit, log_after_commit
from chassis.pooling.paging import belongs_to, newest_of
from chassis.pooling.statements import DriverStatement, load_statements
from chassis.retries import idempotency
from chassis.retries.idempotency import IdempotencyKey, StoredAnswer
from prometheus_client import Histogram
from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from orders.messages import (
    STREAM,
    OrderCancelled,
    OrderConfirmed,
    OrderEvent,
    OrderPlaced,
    RequestPayment,
    SettlePayment,
)
from orders.models import ORDER, Order, OrderRef, OrderStatus, Product
from orders.schemas import (
    OrderLineView,
    OrderPage,
    OrderSummary,
    OrderView,
    PlaceOrder,
    ProductList,
    ProductView,
)

log = get_logger(__name__)

settle_seconds = Histogram(
    "order_settle_seconds",
    "Time from an order's placing until it was final, by what it became (confirmed, cancelled); no refund later on.",
    ["outcome"],
    buckets=(0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600),  # `pending_limit` is 900
)

_SQL = load_statements("orders.sql", package="orders")
_HOT = {name: DriverStatement.of(_SQL[name]) for name in ("claim", "place")}
_FIND = text(_SQL["find"])

_FIRST_FINAL_VERSION = 2
"""Of the event that tells of an order's first final state: 1 was its placing, 3 is a refund after it was confirmed."""
_UNPAID = frozenset({"failed", "canceled", "refunded"})
_SETTLED = _UNPAID | {"captured"}

type PaymentStatus = Literal["created", "submitting", "submitted", "captured", "failed", "canceled", "refunded"]


async def list_products(session: AsyncSession) -> ProductList:
    """The whole catalogue, by id."""
    products = await session.scalars(select(Product).order_by(Product.id))
    return ProductList(items=[ProductView.model_validate(product, from_attributes=True) for product in products])


async def find_product(session: AsyncSession, product_id: str) -> ProductView | None:
    """One product of the catalogue; None when there is none."""
    product = await session.get(Product, product_id)
    return ProductView.model_validate(product, from_attributes=True) if product else None


async def place_order(
    session: HotSession, command: PlaceOrder, *, key: IdempotencyKey, catalogue: ProductList
) -> StoredAnswer:
    """Protocol, row 1: the order, its key record with the answer's bytes, its first job and its first event.

    The answer is a 201 with the order; for a key seen before it is the first answer. Raises `ApiError`: 409 while the
    first request is in progress, 422 for a reused key, an unknown product, two currencies or too large an amount.
    """
    (claim,) = await session.fetch(_HOT["claim"], client=key.client, key=key.key)
    if (stored := idempotency.judge(key, is_held=claim["is_held"], record=claim)) is not None:
        return stored
    priced = _price(command, catalogue)
    order = OrderView(
        id=claim["order_id"],
        status="pending",
        amount=priced.amount,
        currency=priced.currency,
        lines=priced.lines,
        reason=None,
        created_at=claim["placed_at"],
        updated_at=claim["placed_at"],
    )
    answer = StoredAnswer(201, order.model_dump_json().encode())
    try:
        await session.fetch(_HOT["place"], **_row_1(session, command, order, key, answer))
    except UniqueViolationError as error:
        if error.constraint_name != "idempotency_record_pkey":
            raise
        raise idempotency.in_progress() from error  # it has been answered since this transaction looked
    log_after_commit(session, log.info, "order_placed", order_id=order.id, amount=order.amount, currency=order.currency)
    return answer


def _row_1(
    session: HotSession,
    command: PlaceOrder,
    order: OrderView,
    key: IdempotencyKey,
    answer: StoredAnswer,
) -> dict[str, Any]:
    """What the statement `place` writes."""
    placed = OrderPlaced(
        order_id=order.id,
        client_id=key.client,
        customer_email=command.customer_email,
        status=order.status,
        amount=order.amount,
        currency=order.currency,
        reason=order.reason,
    )
    job = jobs.insert_values(session, RequestPayment(order_id=order.id))
    event = outbox.insert_values(session, placed, stream=STREAM, aggregate_id=order.id)
    return {
        "order_id": order.id,
        "placed_at": order.created_at,
        "client": key.client,
        "key": key.key,
        "customer_email": command.customer_email,
        "amount": order.amount,
        "currency": order.currency,
        "payment_method": command.payment_method,
        "products": [line.product_id for line in order.lines],
        "quantities": [line.quantity for line in order.lines],
        "prices": [line.unit_price for line in order.lines],
        **job,
        **event,
        "fingerprint": key.fingerprint,
        "status": answer.status,
        "body": answer.body,
    }


async def find_order(session: AsyncSession, order_id: UUID, *, client_id: str) -> OrderView | None:
    """An order of this client's; None when there is none."""
    rows = (await session.execute(_FIND, {"order_id": order_id, "client": client_id})).mappings().all()
    if not rows:
        return None
    return OrderView.model_validate({**rows[0], "lines": [OrderLineView.model_validate(row) for row in rows]})


async def list_orders(session: AsyncSession, *, client_id: str, limit: int, cursor: str | None) -> OrderPage:
    """A client's orders, newest first. Raises `ApiError` (422) for a cursor that was not given by this route."""
    before = None if cursor is None else _read_cursor(cursor)
    query = newest_of(Order, Order.client_id, client_id, before=before, limit=limit + 1)
    orders = list(await session.scalars(query))
    shown = orders[:limit]
    return OrderPage(
        items=[OrderSummary.model_validate(order, from_attributes=True) for order in shown],
        next_cursor=_write_cursor(shown[-1].id) if len(orders) > limit else None,
    )


async def cancel_order(session: AsyncSession, order_id: UUID, *, client_id: str) -> tuple[OrderView, bool]:
    """Protocol, row 12: the order is on its way to `cancelled`. Returns it and whether this call has set it going.

    Raises `ApiError` (404) when there is no such order of this client's.
    """
    owned = select(Order.id).where(Order.id == order_id, belongs_to(Order.client_id, client_id))
    if await session.scalar(owned) is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    is_new = await _begin_cancelling(session, Order.id == order_id, reason="requested") != []
    order = await find_order(session, order_id, client_id=client_id)
    assert order is not None  # noqa: S101  orders are never deleted
    return order, is_new


async def expire_orders(session: AsyncSession, *, after: float, batch: int) -> list[OrderRef]:
    """Protocol, row 12: cancel orders that have been pending for `after` seconds. Their money may be on its way, so
    they are settled like any other cancelled order.
    """
    too_old = (
        select(Order.id)
        .where(Order.status == OrderStatus.PENDING.value, Order.created_at < func.now() - timedelta(seconds=after))
        .order_by(Order.created_at)
        .limit(batch)
        .scalar_subquery()
    )
    # An array is worked out once, a sub-select behind IN perhaps for each order.
    return await _begin_cancelling(
        session,
        Order.id == func.any(func.array(too_old)),
        Order.status == OrderStatus.PENDING.value,
        reason="expired",
    )


async def _begin_cancelling(session: AsyncSession, *which: ColumnElement[bool], reason: str) -> list[OrderRef]:
    moved = await session.execute(
        update(Order)
        .where(*which, Order.status.in_(ORDER.sources(OrderStatus.CANCELLING)))
        .values(status=OrderStatus.CANCELLING.value, reason=reason, updated_at=func.now(), cancelling_at=func.now())
        .returning(Order.id, Order.client_id)
    )
    orders = [OrderRef(*row) for row in moved]
    for order in orders:
        await enqueue(session, SettlePayment(order_id=order.id))
        log_after_commit(
            session, log.info, "order_moved", order_id=order.id, status=OrderStatus.CANCELLING.value, reason=reason
        )
    return orders


async def sweep(session: AsyncSession, *, stale_after: float, batch: int) -> None:
    """Protocol, row 15, from state: an open order that has not changed for `stale_after` seconds and has no job gets it
    again.

    Both jobs may be repeated at any time; payments answers with what it knows by now.
    """
    stale = await session.execute(
        select(Order.id, Order.status)
        .where(
            Order.status.in_((OrderStatus.PENDING.value, OrderStatus.CANCELLING.value)),
            Order.updated_at < func.now() - timedelta(seconds=stale_after),
            ~has_live_job((RequestPayment, SettlePayment), order_id=Order.id),
        )
        .order_by(func.random())  # or a batch of orders that nothing moves would hide all others
        .limit(batch)
    )
    for order in stale:
        is_pending = order.status == OrderStatus.PENDING
        job = RequestPayment(order_id=order.id) if is_pending else SettlePayment(order_id=order.id)
        await enqueue(session, job)


async def read_order(session: AsyncSession, order_id: UUID) -> Order:
    """The order that a job is about; it exists, since the job committed with it."""
    return (await session.scalars(select(Order).where(Order.id == order_id))).one()


@dataclass(frozen=True, slots=True)
class PaymentNews:
    """What is known of a payment, from an event or an answer. `version` is 0 as long as there is no news in it."""

    payment_id: UUID
    version: int
    status: PaymentStatus
    reason: str | None = None


def decide_payment(order: OrderStatus, *, seen: int, news: PaymentNews) -> OrderStatus | None:
    """Where news of its payment moves an order; None: nowhere. Pure: the protocol's `apply_payment`."""
    if news.version <= seen:
        return None
    if news.status == "captured":
        return OrderStatus.CONFIRMED if order is OrderStatus.PENDING else None
    is_over = news.status in _UNPAID and order in {OrderStatus.PENDING, OrderStatus.CANCELLING}
    return OrderStatus.CANCELLED if is_over else None


async def apply_payment(session: AsyncSession, news: PaymentNews) -> OrderRef | None:
    """Protocol, row 11: record the news and move the order. Returns the order when something changed.

    Raises `LookupError` for a payment of no order.
    """
    order = await session.scalar(select(Order).where(Order.payment_id == news.payment_id).with_for_update())
    if order is None:
        raise LookupError(f"no order has payment {news.payment_id}")
    if news.version <= order.payment_version or news.status not in _SETTLED:
        return None
    target = decide_payment(OrderStatus(order.status), seen=order.payment_version, news=news)
    if target is None and order.status == OrderStatus.CANCELLED and news.status == "captured":
        # The protocol cannot get here; if it does, money was taken for a cancelled order and has to go back.
        log.error("payment_captured_after_cancellation", order_id=order.id, payment_id=news.payment_id)
        await enqueue(session, SettlePayment(order_id=order.id))
    values = {
        "payment_version": news.version,
        "paid_amount": order.amount if news.status == "captured" else 0,
        "updated_at": func.now(),
    }
    if target is None:
        await session.execute(update(Order).where(Order.id == order.id).values(values))
        return OrderRef(order.id, order.client_id)
    await _move(
        session, order, target, values, reason=None if target is OrderStatus.CONFIRMED else order.reason or news.reason
    )
    return OrderRef(order.id, order.client_id)


async def _move(
    session: AsyncSession, order: Order, target: OrderStatus, values: Mapping[str, object], *, reason: str | None
) -> None:
    """Compare-and-set on the state, and the event that tells of it, with the next version."""
    moved = await session.scalar(
        update(Order)
        .where(Order.id == order.id, Order.status.in_(ORDER.sources(target)))
        .values({**values, "status": target.value, "version": Order.version + 1, "reason": reason})
        .returning(Order)
        .execution_options(populate_existing=True)
    )
    if moved is None:
        raise IllegalTransition(ORDER.name, order.status, target)
    await _publish(session, moved, OrderConfirmed if target is OrderStatus.CONFIRMED else OrderCancelled)
    if moved.version == _FIRST_FINAL_VERSION:
        seconds = (moved.updated_at - moved.created_at).total_seconds()
        after_commit(session, partial(settle_seconds.labels(target.value).observe, seconds))
    log_after_commit(session, log.info, "order_moved", order_id=order.id, status=target.value, reason=reason)


async def _publish(session: AsyncSession, order: Order, event: type[OrderEvent]) -> None:
    await outbox.publish(
        session,
        event(
            order_id=order.id,
            client_id=order.client_id,
            customer_email=order.customer_email,
            status=order.status,
            amount=order.amount,
            currency=order.currency,
            reason=order.reason,
        ),
        stream=STREAM,
        aggregate_id=str(order.id),
        aggregate_version=order.version,
    )


class _Priced(NamedTuple):
    """The lines at today's prices, their sum, and the one currency of all."""

    lines: list[OrderLineView]
    amount: int
    currency: str


def _price(command: PlaceOrder, catalogue: ProductList) -> _Priced:
    """Raises `ApiError` naming each line whose product is not in the catalogue, or is priced in another currency than
    the first one, or when the sum is above `MAX_AMOUNT`.
    """
    products = {product.id: product for product in catalogue.items}
    unknown = [
        ErrorDetail(f"lines.{n}.product_id", "There is no such product.", line.product_id)
        for n, line in enumerate(command.lines)
        if line.product_id not in products
    ]
    if unknown:
        raise ApiError(ErrorCode.UNKNOWN_PRODUCT, details=unknown)
    ordered = [products[line.product_id] for line in command.lines]
    currency = ordered[0].currency
    others = [
        ErrorDetail(
            f"lines.{n}.product_id", f"It is priced in {product.currency}, the first line in {currency}.", product.id
        )
        for n, product in enumerate(ordered)
        if product.currency != currency
    ]
    if others:
        raise ApiError(ErrorCode.MIXED_CURRENCIES, details=others)
    lines = [
        OrderLineView(product_id=product.id, quantity=line.quantity, unit_price=product.price)
        for line, product in zip(command.lines, ordered, strict=True)
    ]
    amount = sum(line.unit_price * line.quantity for line in lines)
    if amount > MAX_AMOUNT:
        detail = ErrorDetail("lines", f"They come to {amount}, and an order to {MAX_AMOUNT} at most (minor units).")
        raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail])
    return _Priced(lines, amount, currency)


def _view(order: Order, lines: Sequence[OrderLineView]) -> OrderView:
    return OrderView.model_validate(
        {name: getattr(order, name) for name in OrderView.model_fields if name != "lines"} | {"lines": lines}
    )


def _write_cursor(order_id: UUID) -> str:
    return base64.urlsafe_b64encode(order_id.bytes).decode().rstrip("=")


def _read_cursor(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        detail = ErrorDetail("cursor", "Use a next_cursor as it was given.", cursor[:64])
        raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail]) from error
