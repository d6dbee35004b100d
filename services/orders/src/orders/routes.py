"""The public API of orders. Each route declares the scope that its callers need, its cost and its errors."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from chassis.app.api import Caller, Keyed, Router, opened
from chassis.app.api.backlog import Admission
from chassis.caching import Cache, Json
from chassis.calls.degraded import record_degraded
from chassis.errors import ApiError, DependencyRejected, ErrorCode
from chassis.flags import is_on
from chassis.pooling import Database, after_commit
from chassis.retries import deadlines
from chassis.retries.idempotency import StoredAnswer, find_answer
from fastapi import Depends, Path, Query, Response

from orders import use_cases
from orders.caches import order_key
from orders.models import OrderRef
from orders.payments_client import PAYMENTS, READ_PAYMENT, PaymentsClient
from orders.schemas import MAX_PAGE, OrderPage, OrderView, PaymentView, PlaceOrder, ProductList, ProductView
from orders.settings import PLACE_ORDER_COST, READ_PAYMENT_COST, OrdersFlags

CATALOGUE_KEY = "all"
_NOT_FOUND = 404

router = Router(prefix="/v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources that the routes use, opened by the composition root in `api.py`."""

    database: Database
    catalogue: Cache[ProductList]
    products: Cache[ProductView]
    orders: Cache[OrderView]
    admission: Admission
    payments: PaymentsClient
    flags: Callable[[], OrdersFlags]
    """Returns the flags that are valid now."""


Given = Annotated[Resources, Depends(opened(Resources))]
# The ids of products have only characters that need no escape in a path. A request with any other id is refused before
# it reads the cache.
ProductId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$", examples=["rope"])]


@router.get("/products", access="orders:read", criticality="sheddable", conditional=True)
async def list_products(given: Given) -> Json[ProductList]:
    """The catalogue of products. The catalogue is cached, so a changed price can take a minute and a half to appear."""
    return await given.catalogue.get_or_load_json(CATALOGUE_KEY, partial(_load_catalogue, given))


@router.get("/products/{product_id}", access="orders:read", conditional=True, errors=[ErrorCode.NOT_FOUND])
async def get_product(product_id: ProductId, given: Given) -> Json[ProductView]:
    """One product of the catalogue. The product is cached like the catalogue. The 404 for an unknown id is cached for a
    few seconds.
    """

    async def load() -> ProductView | None:
        async with given.database.read() as session:
            return await use_cases.find_product(session, product_id)

    found = await given.products.get_or_load_json(product_id, load)
    if found is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    return found


@router.post(
    "/orders",
    access="orders:write",
    cost=PLACE_ORDER_COST,
    criticality="critical",
    errors=[ErrorCode.UNKNOWN_PRODUCT, ErrorCode.MIXED_CURRENCIES],
    status_code=201,
)
async def place_order(body: PlaceOrder, given: Given, key: Keyed) -> StoredAnswer[OrderView]:
    """Place an order. The order is `pending` until its payment succeeds or fails. A request with a repeated
    idempotency key gets the first answer, even while new orders are refused.
    """
    if (refusal := given.admission.refusal()) is not None:
        async with given.database.read() as session:
            if (stored := await find_answer(session, key)) is not None:
                return stored
        raise refusal
    catalogue = await given.catalogue.get_or_load(CATALOGUE_KEY, partial(_load_catalogue, given))
    deadlines.check("the order was written")
    async with given.database.transaction() as session:
        return await use_cases.place_order(session, body, key=key, catalogue=catalogue)


@router.get("/orders", access="orders:read", criticality="sheddable")
async def list_orders(
    caller: Caller,
    given: Given,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> OrderPage:
    """The caller's orders, newest first, in pages."""
    async with given.database.read() as session:
        return await use_cases.list_orders(session, client_id=caller.id, limit=limit, cursor=cursor)


@router.get("/orders/{order_id}", access="orders:read", conditional=True, errors=[ErrorCode.NOT_FOUND])
async def get_order(order_id: UUID, caller: Caller, given: Given) -> Json[OrderView]:
    """One of the caller's orders. The answer is a 404 for an order of another client, as for an unknown order."""

    async def load() -> OrderView | None:
        async with given.database.read() as session:
            return await use_cases.find_order(session, order_id, client_id=caller.id)

    found = await given.orders.get_or_load_json(order_key(OrderRef(order_id, caller.id)), load)
    if found is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    return found


@router.get(
    "/orders/{order_id}/payment",
    access="orders:read",
    cost=READ_PAYMENT_COST,
    criticality="sheddable",
    errors=[ErrorCode.NOT_FOUND, ErrorCode.DEPENDENCY_REJECTED],
)
async def get_order_payment(order_id: UUID, caller: Caller, given: Given) -> PaymentView:
    """The payment of one of the caller's orders, as the payments service reports it. If the payments service does not
    answer, `degraded` is true and `status` is the last status that the order knows.
    """
    async with given.database.read() as session:
        known = await use_cases.find_payment(session, order_id, client_id=caller.id)
    if known is None:
        raise ApiError(ErrorCode.NOT_FOUND)
    if is_on(given.flags().stored_payment_status, caller.id, subject=str(order_id)):
        record_degraded(PAYMENTS, READ_PAYMENT, "flag")
        return use_cases.view_of_known(known, degraded=True)
    try:
        payment = await given.payments.read_payment(known.payment_id)
    except DependencyRejected as error:
        if error.status != _NOT_FOUND:
            raise
        # The job that requests the payment has not run yet, so the order knows as much as the payments service.
        return use_cases.view_of_known(known, degraded=False)
    if payment is None:
        return use_cases.view_of_known(known, degraded=True)
    return use_cases.view_of_reported(known, payment, now=datetime.now(UTC))


@router.post(
    "/orders/{order_id}/cancel",
    access="orders:write",
    cost=PLACE_ORDER_COST,
    criticality="critical",
    errors=[ErrorCode.NOT_FOUND],
    status_code=202,
    responses={200: {"model": OrderView, "description": "An earlier request cancelled the order."}},
)
async def cancel_order(order_id: UUID, response: Response, caller: Caller, given: Given) -> OrderView:
    """Cancel an order, at any time. The order is `cancelling` until its payment is cancelled or refunded, then
    `cancelled`. The request is safe to repeat.
    """
    deadlines.check("the order was cancelled")
    async with given.database.transaction() as session:
        order, is_new = await use_cases.cancel_order(session, order_id, client_id=caller.id)
        key = order_key(OrderRef(order_id, caller.id))
        after_commit(session, partial(given.orders.invalidate_soon, key))
    # After this wait, the caller no longer reads the order's old status from the cache, unless Redis failed.
    await given.orders.invalidated()
    response.status_code = 202 if is_new else 200
    return order


async def _load_catalogue(given: Resources) -> ProductList:
    async with given.database.read() as session:
        return await use_cases.list_products(session)
