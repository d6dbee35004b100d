"""The composition root of the API process, which opens the resources that the routes use."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from chassis.app.api import ApiResources, Application, build_app, run_api
from chassis.config import Live

from webhook_ingest import routes
from webhook_ingest.models import Provider
from webhook_ingest.routes import Resources
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings


def run(live: Live[WebhookIngestSettings]) -> None:
    run_api(live, create_app(live))


def create_app(live: Live[WebhookIngestSettings]) -> Application:
    return build_app(
        live, version=version("holdfast-webhook-ingest"), routers=[routes.router], open_resources=_open_resources
    )


@asynccontextmanager
async def _open_resources(live: Live[WebhookIngestSettings], base: ApiResources) -> AsyncIterator[Resources]:
    yield Resources(database=base.database, secrets=lambda: _valid_secrets(live.current.webhook_secrets))


def _valid_secrets(configured: WebhookSecretSettings) -> Mapping[Provider, Sequence[str]]:
    secrets = {
        Provider.PAYMENT_PROVIDER: configured.payment_provider,
        Provider.STRIPE: configured.stripe,
        Provider.GITHUB: configured.github,
    }
    return {provider: [one.get_secret_value() for one in valid] for provider, valid in secrets.items()}
