"""`orders events …`: an operator lists the events that this service could not handle, and replays them."""

from dataclasses import fields
from functools import partial
from typing import Annotated

import typer

from chassis.app.cli.operator import Options, Run, audit, list_lines, numbered, runner_of
from chassis.config.settings import ServiceSettings
from chassis.errors import HoldfastError
from chassis.events import dead_events


def event_commands(settings_type: type[ServiceSettings]) -> typer.Typer:
    """The `events` commands of one service."""
    app = typer.Typer(help="List and replay events that this service could not handle.", no_args_is_help=True)
    run = runner_of(settings_type)

    @app.command()
    def dead(options: Options = None) -> None:
        """List the dead events, the oldest first."""
        found = run(options, dead_events.list_dead)
        list_lines(
            (f"{event.id}  {event.stream} {event.entry_id}  {event.died_at:%F %T}  {event.reason}" for event in found),
            what="dead events",
        )

    @app.command()
    def show(number: int, options: Options = None) -> None:
        """Show one dead event."""
        event = run(options, partial(dead_events.show, event_number=number))
        if event is None:
            raise HoldfastError(f"there is no dead event {number}: it was replayed, or never existed")
        for field in fields(event):
            typer.echo(f"{field.name}: {getattr(event, field.name)}")

    _add_event_replay(app, run)
    return app


def _add_event_replay(app: typer.Typer, run: Run) -> None:
    @app.command()
    def replay(
        number: Annotated[int | None, typer.Argument(metavar="[NUMBER]")] = None,
        *,
        every: Annotated[bool, typer.Option("--all", help="Replay all dead events.")] = False,
        stream: Annotated[str | None, typer.Option(help="With --all: only the events of this stream.")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the dead events and change nothing.")] = False,
        options: Options = None,
    ) -> None:
        """Return dead events to the worker, which handles them again within seconds."""
        if (number is None) != every:
            raise HoldfastError("say which one: a NUMBER, or --all")
        replayed = run(options, partial(dead_events.replay, event_number=number, stream=stream, dry_run=dry_run))
        if number is not None and not replayed:
            raise HoldfastError(f"there is no dead event {number}: it was replayed, or never existed")
        if replayed and not dry_run:
            audit("events_replayed", event_numbers=list(replayed))
        typer.echo(f"{'would replay' if dry_run else 'will replay'} {numbered(replayed)}")
