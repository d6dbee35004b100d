"""The composition root of the API process, which opens the resources that the routes use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from chassis.app.api import ApiResources, Application, build_app, run_api
from chassis.app.api.backlog import Admission
from chassis.config import Live
from chassis.pooling.statements import load_driver_statements

from orders import caches, routes
from orders.payments_client import PaymentsClient, open_payments
from orders.routes import Resources
from orders.settings import OrdersSettings

BACKLOG = load_driver_statements("orders.sql", package="orders")["backlog"]


def run(live: Live[OrdersSettings]) -> None:
    run_api(live, create_app(live))


def create_app(live: Live[OrdersSettings]) -> Application:
    return build_app(live, version=version("holdfast-orders"), routers=[routes.router], open_resources=_open_resources)


@asynccontextmanager
async def _open_resources(live: Live[OrdersSettings], base: ApiResources) -> AsyncIterator[Resources]:
    settings = live.current
    catalogue = caches.catalogue(base.redis, settings)
    products = caches.products(base.redis, settings)
    orders = caches.orders(base.redis, settings)
    dependency = open_payments(settings, lambda: live.current.payments.token_secret, base.breakers)
    admission = Admission(base.health, BACKLOG, lambda: live.current.backlog)
    try:
        async with admission.measuring():
            yield Resources(
                database=base.database,
                catalogue=catalogue,
                products=products,
                orders=orders,
                admission=admission,
                payments=PaymentsClient(dependency),
                flags=lambda: live.current.flags,
            )
    finally:
        await dependency.close()
        await catalogue.close()
        await products.close()
        await orders.close()
