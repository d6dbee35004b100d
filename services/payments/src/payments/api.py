"""The composition root of the API process: what it opens, and what its routes are given."""

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

from payments import routes
from payments.routes import Resources
from payments.settings import PaymentsSettings


def create_app(live: Live[PaymentsSettings]) -> Application:
    return create_chassis_app(
        live,
        version=version("holdfast-payments"),
        routers=[routes.router],
        open_resources=partial(_open_resources, live),
    )


def run(live: Live[PaymentsSettings]) -> None:
    run_api(live, create_app(live))


@asynccontextmanager
async def _open_resources(live: Live[PaymentsSettings]) -> AsyncIterator[Resources]:
    async with open_api_resources(live) as base:
        yield Resources.of(
            base,
            backlog=BacklogLimit(base.database, live.current.jobs),
        )
