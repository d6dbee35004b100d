"""The command `webhook-ingest`."""

from pathlib import Path

from chassis.cli import build_cli

from webhook_ingest.settings import WebhookIngestSettings

main = build_cli(
    WebhookIngestSettings,
    api="webhook_ingest.api:run",
    worker="webhook_ingest.worker:run",
    migrations=Path(__file__).parent / "migrations",
)
