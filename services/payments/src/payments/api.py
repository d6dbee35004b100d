"""The composition root of the API process, which opens the resources that the routes use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from chassis.app.api import ApiResources, Application, build_app, run_api
from chassis.app.api.backlog import Admission
from chassis.config import Live
from chassis.pooling.statements import load_driver_statements

from payments import routes
from payments.routes import Resources
from payments.settings import PaymentsSettings

BACKLOG = load_driver_statements("payments.sql", package="payments")["backlog"]


def run(live: Live[PaymentsSettings]) -> None:
    run_api(live, create_app(live))


def create_app(live: Live[PaymentsSettings]) -> Application:
    return build_app(
        live, version=version("holdfast-payments"), routers=[routes.router], open_resources=_open_resources
    )


@asynccontextmanager
async def _open_resources(live: Live[PaymentsSettings], base: ApiResources) -> AsyncIterator[Resources]:
    admission = Admission(base.health, BACKLOG, lambda: live.current.backlog)
    async with admission.measuring():
        yield Resources(database=base.database, admission=admission)
