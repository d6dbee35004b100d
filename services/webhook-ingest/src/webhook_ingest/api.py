"""The composition root of the API process: what it opens, and what its routes are given."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app.api import create_app as create_chassis_app
from chassis.app.api import run_api
from chassis.app.api.application import Application
from chassis.app.api.resources import open_api_resources
from chassis.config import Live

from webhook_ingest import routes
from webhook_ingest.models import Provider
from webhook_ingest.routes import Resources
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings


def create_app(live: Live[WebhookIngestSettings]) -> Application:
    return create_chassis_app(
        live,
        version=version("holdfast-webhook-ingest"),
        routers=[routes.router],
        open_resources=partial(_open_resources, live),
    )


def run(live: Live[WebhookIngestSettings]) -> None:
    run_api(live, create_app(live))


@asynccontextmanager
async def _open_resources(live: Live[WebhookIngestSettings]) -> AsyncIterator[Resources]:
    async with open_api_resources(live) as base:
        yield Resources.of(
            base,
            secrets=lambda: _valid_secrets(live.current.webhook_secrets),
        )


def _valid_secrets(configured: WebhookSecretSettings) -> Mapping[Provider, Sequence[str]]:
    secrets = {
        Provider.PAYMENT_PROVIDER: configured.payment_provider,
        Provider.STRIPE: configured.stripe,
        Provider.GITHUB: configured.github,
    }
    return {provider: [one.get_secret_value() for one in valid] for provider, valid in secrets.items()}
