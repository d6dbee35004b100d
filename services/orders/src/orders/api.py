"""The composition root of the API process: what it opens, in which order, and what its routes are given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.api import create_app as create_chassis_app
from chassis.app.api import run_api
from chassis.app.api.application import Application
from chassis.app.api.resources import open_api_resources
from chassis.config import Live
from chassis.jobs.backlog import BacklogLimit

from orders import caches, routes
from orders.routes import Resources
from orders.settings import OrdersSettings


def create_app(live: Live[OrdersSettings]) -> Application:
    return create_chassis_app(
        live,
        version=version("holdfast-orders"),
        routers=[routes.router],
        open_resources=partial(_open_resources, live),
    )


def run(live: Live[OrdersSettings]) -> None:
    run_api(live, create_app(live))


@asynccontextmanager
async def _open_resources(live: Live[OrdersSettings]) -> AsyncIterator[Resources]:
    settings = live.current
    async with open_api_resources(live) as base:
        catalogue = caches.catalogue(base.redis, settings)
        products = caches.products(base.redis, settings)
        orders = caches.orders(base.redis, settings)
        try:
            yield Resources.of(
                base,
                catalogue=catalogue,
                products=products,
                orders=orders,
                backlog=BacklogLimit(base.database, settings.jobs),
            )
        finally:
            await catalogue.close()
            await products.close()
            await orders.close()
