"""The service's own groups of commands for operators."""

from functools import partial
from typing import Annotated
from uuid import UUID

import typer
from chassis.app.cli.operator import Options, audit, list_lines, numbered, runner_of
from chassis.errors import HoldfastError

from notifications.settings import NotificationsSettings
from notifications.use_cases import list_dead_mails, resend_mails


def groups() -> dict[str, typer.Typer]:
    return {"mails": _mail_commands()}


def _mail_commands() -> typer.Typer:
    app = typer.Typer(help="List and resend mails that the mail server refused.", no_args_is_help=True)
    run = runner_of(NotificationsSettings)

    @app.command()
    def dead(options: Options = None) -> None:
        """List the dead mails, which the mail server refused permanently, the oldest first."""
        found = run(options, list_dead_mails)
        lines = (
            f"{mail.id}  {mail.event_type}  order {mail.order_id or 'none'}  {mail.settled_at:%F %T}  {mail.reason}"
            for mail in found
        )
        list_lines(lines, what="dead mails")

    @app.command()
    def resend(
        mail_id: Annotated[UUID | None, typer.Argument(metavar="[ID]")] = None,
        *,
        every: Annotated[bool, typer.Option("--all", help="Send all dead mails again.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the dead mails and change nothing.")] = False,
        options: Options = None,
    ) -> None:
        """Send dead mails again, with the same Message-IDs."""
        if (mail_id is None) != every:
            raise HoldfastError("say which one: an ID, or --all")
        found = run(options, partial(resend_mails, mail_id=mail_id, dry_run=dry_run))
        if mail_id is not None and not found:
            raise HoldfastError(f"mail {mail_id} is not dead")
        if found and not dry_run:
            audit("mails_resent", mail_ids=[str(one) for one in found])
        typer.echo(f"{'would resend' if dry_run else 'will resend'} {numbered(found)}")

    return app
