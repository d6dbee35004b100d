"""The service's own groups of commands for operators."""

from functools import partial
from typing import Annotated

import typer
from chassis.app.cli.operator import Options, audit, numbered, runner_of

from webhook_ingest.models import Provider
from webhook_ingest.settings import WebhookIngestSettings
from webhook_ingest.use_cases import Redrivable, redrive


def groups() -> dict[str, typer.Typer]:
    return {"webhooks": _webhook_commands()}


def _webhook_commands() -> typer.Typer:
    app = typer.Typer(help="Replay webhooks that were stored and not published.", no_args_is_help=True)
    run = runner_of(WebhookIngestSettings)

    @app.callback()
    def webhooks_group() -> None:
        """Replay webhooks that were stored and not published."""

    @app.command("redrive")
    def redrive_webhooks(
        which: Annotated[
            Redrivable,
            typer.Argument(help="ignored: webhooks of an unknown type; dead: webhooks that were unreadable."),
        ],
        *,
        provider: Annotated[Provider | None, typer.Option(help="Only webhooks of this provider.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the webhooks and change nothing.")] = False,
        options: Options = None,
    ) -> None:
        """Process stored webhooks again, after a change of the code that reads them."""
        found = run(options, partial(redrive, which=which, provider=provider, dry_run=dry_run))
        names = [f"{sender}/{event_id}" for sender, event_id in found]
        if names and not dry_run:
            audit("webhooks_redriven", status=which.value, events=names)
        typer.echo(f"{'would redrive' if dry_run else 'redriving'} {numbered(names)}")

    return app
