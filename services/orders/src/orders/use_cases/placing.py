"""Places an order: one transaction writes the order's rows, its first job, its first event and the stored answer."""

from typing import NamedTuple

from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.errors.fields import MAX_AMOUNT
from chassis.events.outbox import event_row
from chassis.jobs import job_row
from chassis.logging import get_logger
from chassis.pooling import Session, log_after_commit
from chassis.pooling.statements import load_driver_statements
from chassis.retries.idempotency import IdempotencyKey, StoredAnswer, answer_row, find_answer

from orders.messages import STREAM, OrderPlaced, RequestPayment
from orders.schemas import OrderLineView, OrderView, PlaceOrder, ProductList

log = get_logger(__name__)

_PLACE = load_driver_statements("orders.sql", package="orders")["place"]


async def place_order(
    session: Session, command: PlaceOrder, *, key: IdempotencyKey, catalogue: ProductList
) -> StoredAnswer:
    """Step 1 of an order (docs/reference/protocol.md): write the order, its first job, its first event, and the answer
    under the idempotency key.

    Returns a 201 with the order, or the first answer if the key was used before. Raises `ApiError`: 409 while the first
    request with the key is in progress; 422 for another request with the same key, an unknown product, two currencies,
    or too large an amount.
    """
    if (stored := await find_answer(session, key)) is not None:
        return stored
    order = await _add(session, command, _price(command, catalogue), key)
    answer = StoredAnswer(201, order.model_dump_json().encode())
    placed = OrderPlaced(
        order_id=order.id,
        client_id=key.client,
        customer_email=command.customer_email,
        status=order.status,
        amount=order.amount,
        currency=order.currency,
        reason=order.reason,
    )
    await session.insert(
        job_row(RequestPayment(order_id=order.id)),
        event_row(placed, stream=STREAM, aggregate_id=order.id, aggregate_version=1),
        answer_row(key, answer),
    )
    log_after_commit(session, log.info, "order_placed", order_id=order.id, amount=order.amount, currency=order.currency)
    return answer


class _Priced(NamedTuple):
    """The lines with the catalogue's prices, the sum of the lines, and their common currency."""

    lines: list[OrderLineView]
    amount: int
    currency: str


async def _add(session: Session, command: PlaceOrder, priced: _Priced, key: IdempotencyKey) -> OrderView:
    """Insert the rows of the order and of its lines."""
    (row,) = await session.fetch(
        _PLACE,
        client=key.client,
        key=key.key,
        customer_email=command.customer_email,
        amount=priced.amount,
        currency=priced.currency,
        payment_method=command.payment_method,
        products=[line.product_id for line in priced.lines],
        quantities=[line.quantity for line in priced.lines],
        prices=[line.unit_price for line in priced.lines],
    )
    return OrderView(**row, lines=priced.lines)


def _price(command: PlaceOrder, catalogue: ProductList) -> _Priced:
    """Price the lines of an order. Raises `ApiError`, which lists the wrong lines, if a product is not in the catalogue
    or has another currency than the first line. Raises `ApiError` if the sum is above `MAX_AMOUNT`.
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
        detail = ErrorDetail("lines", f"The sum is {amount}. An order has at most {MAX_AMOUNT} (minor units).")
        raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail])
    return _Priced(lines, amount, currency)
