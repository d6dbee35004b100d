"""The composition root of the API process, which opens the resources that the routes use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from chassis.app.api import ApiResources, Application, build_app, run_api
from chassis.calls.ssrf import resolve
from chassis.config import Live

from notifications import routes
from notifications.routes import Resources
from notifications.settings import NotificationsSettings


def run(live: Live[NotificationsSettings]) -> None:
    run_api(live, create_app(live))


def create_app(live: Live[NotificationsSettings]) -> Application:
    return build_app(
        live, version=version("holdfast-notifications"), routers=[routes.router], open_resources=_open_resources
    )


@asynccontextmanager
async def _open_resources(live: Live[NotificationsSettings], base: ApiResources) -> AsyncIterator[Resources]:
    yield Resources(database=base.database, webhooks=live.current.webhooks, resolve=resolve)
