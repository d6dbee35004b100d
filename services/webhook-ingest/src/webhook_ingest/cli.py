"""The command `webhook-ingest`."""

from pathlib import Path

from chassis.app.cli import build_cli

main = build_cli(
    settings="webhook_ingest.settings:WebhookIngestSettings",
    api="webhook_ingest.api:run",
    worker="webhook_ingest.worker:run",
    migrations=Path(__file__).parent / "migrations",
    groups="webhook_ingest.commands:groups",
)
