"""Reads the catalogue and orders."""

import base64
import binascii
from dataclasses import dataclass
from uuid import UUID

from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.pooling import Session
from chassis.pooling.paging import newest_of
from chassis.pooling.statements import load_driver_statements
from sqlalchemy import select

from orders.models import Order, Product
from orders.schemas import OrderLineView, OrderPage, OrderSummary, OrderView, ProductList, ProductView

_SQL = load_driver_statements("orders.sql", package="orders")


async def list_products(session: Session) -> ProductList:
    """The whole catalogue, sorted by the products' ids."""
    products = await session.scalars(select(Product).order_by(Product.id))
    return ProductList(items=[ProductView.model_validate(product, from_attributes=True) for product in products])


async def find_product(session: Session, product_id: str) -> ProductView | None:
    """The product with this id, or None when the catalogue has no such product."""
    product = await session.get(Product, product_id)
    return ProductView.model_validate(product, from_attributes=True) if product else None


async def find_order(session: Session, order_id: UUID, *, client_id: str) -> OrderView | None:
    """The order with this id, or None when this client has no such order."""
    rows = await session.fetch(_SQL["find"], order_id=order_id, client=client_id)
    if not rows:
        return None
    return OrderView(**rows[0], lines=[OrderLineView(**row) for row in rows])


async def list_orders(session: Session, *, client_id: str, limit: int, cursor: str | None) -> OrderPage:
    """A client's orders, newest first. Raises `ApiError` (422) for a cursor that did not come from an earlier page."""
    before = None if cursor is None else _read_cursor(cursor)
    query = newest_of(Order, Order.client_id, client_id, before=before, limit=limit + 1)
    orders = list(await session.scalars(query))
    shown = orders[:limit]
    return OrderPage(
        items=[OrderSummary.model_validate(order, from_attributes=True) for order in shown],
        next_cursor=_write_cursor(shown[-1].id) if len(orders) > limit else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderToPay:
    """The fields of an order that its jobs read."""

    id: UUID
    client_id: str
    status: str
    payment_id: UUID
    amount: int
    currency: str
    payment_method: str


async def read_order(session: Session, order_id: UUID) -> OrderToPay:
    """The order to which a job belongs. The order exists, because it was committed together with the job or before the
    job.
    """
    (row,) = await session.fetch(_SQL["read"], order_id=order_id)
    return OrderToPay(**row)


def _write_cursor(order_id: UUID) -> str:
    return base64.urlsafe_b64encode(order_id.bytes).decode().rstrip("=")


def _read_cursor(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        detail = ErrorDetail("cursor", "The cursor is not the next_cursor of an earlier page.", cursor[:64])
        raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail]) from error
