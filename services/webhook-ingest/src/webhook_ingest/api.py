"""The composition root of the API process: what it opens, and what its routes are given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from chassis.app import create_app as create_chassis_app
from chassis.app import run_api
from chassis.app.resources import open_api_resources
from fastapi import FastAPI

from webhook_ingest import routes
from webhook_ingest.models import Provider
from webhook_ingest.routes import Resources
from webhook_ingest.settings import WebhookIngestSettings


def create_app(settings: WebhookIngestSettings) -> FastAPI:
    return create_chassis_app(
        settings,
        version=version("holdfast-webhook-ingest"),
        routers=[routes.router],
        open_resources=partial(_open_resources, settings),
    )


def run(settings: WebhookIngestSettings) -> None:
    run_api(settings, create_app(settings))


@asynccontextmanager
async def _open_resources(settings: WebhookIngestSettings) -> AsyncIterator[Resources]:
    configured = settings.webhook_secrets
    secrets = {
        Provider.PAYMENT_PROVIDER: configured.payment_provider,
        Provider.STRIPE: configured.stripe,
        Provider.GITHUB: configured.github,
    }
    async with open_api_resources(settings) as base:
        yield Resources(
            database=base.database,
            redis=base.redis,
            rate_limiter=base.rate_limiter,
            checks=base.checks,
            secrets={provider: [one.get_secret_value() for one in valid] for provider, valid in secrets.items()},
        )
