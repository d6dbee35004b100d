"""The command `webhook-ingest`."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from chassis import config
from chassis.app.cli import build_cli
from chassis.app.cli.operator import Options, audit, in_transaction, numbered

from webhook_ingest.models import Provider
from webhook_ingest.settings import WebhookIngestSettings
from webhook_ingest.use_cases import Redrivable, redrive


def _webhook_commands() -> typer.Typer:
    app = typer.Typer(help="Look after webhooks that were stored and not published.", no_args_is_help=True)

    @app.callback()
    def webhooks_group() -> None:
        """Look after webhooks that were stored and not published."""

    @app.command("redrive")
    def redrive_webhooks(
        which: Annotated[Redrivable, typer.Argument(help="ignored: of a type nobody handled; dead: unreadable.")],
        *,
        provider: Annotated[Provider | None, typer.Option(help="Only this sender's.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which ones.")] = False,
        options: Options = None,
    ) -> None:
        """Work on them again, from their bodies as they were signed: after whatever reads them was mended or taught."""
        database = config.load_database(WebhookIngestSettings, options or ())
        use = partial(redrive, which=which, provider=provider, dry_run=dry_run)
        found = asyncio.run(in_transaction(database, use))
        names = [f"{sender}/{event_id}" for sender, event_id in found]
        if names and not dry_run:
            audit("webhooks_redriven", status=which.value, events=names)
        typer.echo(f"{'would redrive' if dry_run else 'redriving'} {numbered(names)}")

    return app


main = build_cli(
    WebhookIngestSettings,
    api="webhook_ingest.api:run",
    worker="webhook_ingest.worker:run",
    migrations=Path(__file__).parent / "migrations",
    groups={"webhooks": _webhook_commands()},
)
