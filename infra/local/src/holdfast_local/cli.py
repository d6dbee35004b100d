"""`holdfast-local`: run the platform on this machine."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from holdfast_local.audit import audit_running, explain_running
from holdfast_local.errors import RunnerError, problem_of
from holdfast_local.installation import Installation
from holdfast_local.logs import print_logs
from holdfast_local.platform import running_platform
from holdfast_local.report import print_event, print_table
from holdfast_local.runs import end_leftovers, running_record, stop_runner
from holdfast_local.secrets import SERVICES
from holdfast_local.settings import LocalSettings, load_settings
from holdfast_local.state import present_settings, remove_state
from holdfast_local.stopping import EXIT_STOPPED, cancelled_by_signals
from holdfast_local.topology import command_of

_STOP_DEADLINE_SECONDS = 120.0  # four layers of processes, each with its own deadline; an idle platform takes two

_PIPE_WIDTH = 120  # columns, where there is no terminal to ask: the table is not folded

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


@app.command()
def up() -> None:
    """Start everything and stay; Ctrl-C stops it in order, a second one at once."""
    run_until_stopped(_up(load_settings()))


@app.command()
def down() -> None:
    """Stop a running platform, from another shell."""
    state = load_settings().state
    was_running = stop_runner(state, deadline_seconds=_STOP_DEADLINE_SECONDS)
    console.print("Holdfast has stopped." if was_running else "Holdfast is not running.")


@app.command()
def status() -> None:
    """What runs, where, and how it is."""
    record = running_record(present_settings().state)
    if record is None:
        raise RunnerError("Holdfast is not running: start it with `make up`")
    asyncio.run(print_table(console, record))


@app.command()
def logs(
    name: Annotated[str | None, typer.Argument(help="A process, such as orders-api; none: all.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until Ctrl-C.")] = False,
) -> None:
    """The end of what the processes wrote."""
    with suppress(KeyboardInterrupt):
        print_logs(present_settings().state / "logs", name, follow=follow)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def audit(context: typer.Context) -> None:
    """Ask the oracle about the running platform; options for it may follow: --wait, --allow-dead, --json …"""
    raise typer.Exit(audit_running(present_settings(), context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def explain(context: typer.Context) -> None:
    """What the databases remember of one order: `explain order ID`; `--json` may follow."""
    raise typer.Exit(explain_running(present_settings(), context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def run(context: typer.Context, service: str) -> None:
    """Run a service's own command with this installation's settings: `run orders jobs dead`, `run orders --help`."""
    if service not in SERVICES:
        raise RunnerError(f"there is no service {service}; there are {', '.join(SERVICES)}")
    command, environment = command_of(Installation.load(present_settings()), service, context.args)
    os.execve(command[0], command, environment)


@app.command()
def demo() -> None:
    """The whole platform for half a minute: orders, a killed worker, an outage, the oracle; stops by itself."""
    from holdfast_local.demo import demo as run  # noqa: PLC0415  `up` does not carry the demo's world

    _run_to_the_end(run(load_settings(), console), what="the demo")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def load(context: typer.Context, scenario: str) -> None:
    """Locust's users on the running platform, or on one of their own, then the oracle. Exit 1 when a limit is not kept.

    Options for the locustfile may follow: --seconds, --rate, --orders, --seed.
    """
    from holdfast_local.load import load as run  # noqa: PLC0415  as above

    _run_to_the_end(run(load_settings(), console, scenario=scenario, options=context.args), what="the load test")


@app.command()
def chaos(
    *,
    seed: Annotated[int, typer.Option(help="What is bought and what goes wrong follows from it.")] = 1,
    rounds: Annotated[int, typer.Option(min=1)] = 20,
    first: Annotated[int, typer.Option(min=1, help="Number of the first round, to run a later one again.")] = 1,
) -> None:
    """Random faults, seeded, on a platform of its own; after each round the oracle. Exit 1 on a violation."""
    from holdfast_local.chaos import chaos as run  # noqa: PLC0415  `up` does not carry it

    work = run(load_settings(), console, seed=seed, rounds=range(first, first + rounds))
    _run_to_the_end(work, what="the last round")


@app.command()
def clean() -> None:
    """Delete databases, secrets and logs, wherever they are."""
    state = load_settings().state
    if running_record(state):
        raise RunnerError("Holdfast is running: stop it with `make down` first")
    end_leftovers(state)
    remove_state(state)


def main() -> None:
    """The command's entry point: a failure we expect is one message and exit code 1."""
    try:
        _run_command()
    except RunnerError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
        sys.exit(1)


def _run_command() -> None:
    try:
        app()
    except OSError as error:
        if problem := problem_of(error):
            raise problem from error
        raise


def run_until_stopped(work: Coroutine[None, None, None]) -> None:
    """Run to the end, or until a signal cancels it; one more signal cancels its cleaning up, which then kills."""
    with suppress(asyncio.CancelledError):
        asyncio.run(cancelled_by_signals(work))


def _run_to_the_end(work: Coroutine[None, None, None], *, what: str) -> None:
    """As `run_until_stopped`, but to be stopped is to fail."""
    try:
        asyncio.run(cancelled_by_signals(work))
    except asyncio.CancelledError:
        console.print(f"Stopped; {what} was not finished.")
        raise typer.Exit(EXIT_STOPPED) from None


async def _up(settings: LocalSettings) -> None:
    console.print(f"Starting Holdfast; its state is in {settings.state}", soft_wrap=True)
    async with running_platform(settings, on_event=lambda event: print_event(console, event)) as platform:
        if outside := platform.outside_folder:
            console.print(f"PostgreSQL runs as `nobody`, who cannot enter this tree: it uses {outside}", soft_wrap=True)
        await print_table(console, platform.record)
        console.print("Ctrl-C stops it.")
        try:
            await asyncio.Event().wait()
        finally:
            console.print("Stopping; Ctrl-C again kills.")
