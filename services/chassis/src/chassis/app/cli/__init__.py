"""The command of a service: `orders api | worker | migrate | wait-for-schema | config explain | jobs … | …`.

It is the image's entry point.

Composition roots are named as text and imported when their command runs, so that `orders migrate` does not load a web
framework and `orders api` no migrations.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Annotated

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import config
from chassis.app.cli.api_keys import api_key_commands
from chassis.app.cli.events import event_commands
from chassis.app.cli.operator import Options, Run, audit, in_transaction, list_lines, numbered
from chassis.config.settings import DatabaseSettings, ServiceSettings
from chassis.errors import ConfigurationError, HoldfastError
from chassis.jobs import dead_letters
from chassis.logging import debugging
from chassis.pooling import Database
from chassis.pooling.budget import service_budget

_DRAIN_LOOK_SECONDS = 0.5  # between looks at a queue that is drained: each counts rows
EXIT_CONFIGURATION = 2  # as for a wrong option: what was given is wrong, and starting again does not help

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", metavar="NAME=VALUE", help="name=…, queue=… or error=… (a part of the reason). Repeatable."
    ),
]

Timeout = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait at most.")]


def build_cli[S: ServiceSettings](
    settings_type: type[S],
    *,
    api: str,
    worker: str,
    migrations: Path,
    groups: Mapping[str, typer.Typer] = MappingProxyType({}),
) -> Callable[[], None]:
    """The service's command.

    `api` and `worker` name the functions (`"orders.api:run"`) that are called with the live settings; `migrations` is
    the folder of the service's Alembic revisions, `groups` are commands of its own.
    """
    app = typer.Typer(
        name=settings_type.service_name,
        help=f"The {settings_type.service_name} service.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.command("api")
    def run_api(options: Options = None) -> None:
        """Serve the public API."""
        resolve_name(api)(config.load_live(settings_type, options or ()))

    @app.command("worker")
    def run_worker(options: Options = None) -> None:
        """Run jobs, consume events and publish the outbox."""
        resolve_name(worker)(config.load_live(settings_type, options or ()))

    @app.command()
    def migrate(timeout: Timeout = 0.0, options: Options = None) -> None:
        """Bring the database's schema up to date; wait for a database that is not there yet."""
        from chassis.migrations import migrate as run_migrations  # noqa: PLC0415  only these two need Alembic

        settings = config.load_database(settings_type, options or ())
        asyncio.run(run_migrations(settings, migrations, timeout_seconds=timeout, tell=typer.echo))

    @app.command()
    def wait_for_schema(timeout: Timeout = 60.0, options: Options = None) -> None:
        """Wait until the database's schema is what this code needs, or newer."""
        from chassis.migrations import wait_for_schema as wait  # noqa: PLC0415

        settings = config.load_database(settings_type, options or ())
        asyncio.run(wait(settings, migrations, timeout_seconds=timeout, tell=typer.echo))

    @app.command("debug-header")
    def print_debug_header(
        seconds: Annotated[int, typer.Option(min=1, max=debugging.MAX_SECONDS, help="How long it is valid.")] = 60,
        options: Options = None,
    ) -> None:
        """Print the header that turns DEBUG on for a request, for curl -H."""
        key = config.load_log(settings_type, options or ()).debug_key
        if key is None:
            raise HoldfastError("there is no log.debug_key to sign it with")
        value = debugging.sign(key.get_secret_value(), expires=int(time.time()) + seconds)
        typer.echo(f"{debugging.HEADER}: {value}")

    app.add_typer(_config_commands(settings_type), name="config")
    app.add_typer(_jobs_commands(settings_type), name="jobs")
    app.add_typer(event_commands(settings_type), name="events")
    app.add_typer(api_key_commands(settings_type), name="api-keys")
    for name, group in groups.items():
        app.add_typer(group, name=name)
    return lambda: _run(app)


def _run(app: typer.Typer) -> None:
    """Run the command; what is wrong with the input is said in a line each, without a traceback."""
    # A container's first process ignores SIGTERM unless it says what to do. Once they run, API and worker say it anew.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except ConfigurationError as error:
        problems = "".join(f"  {problem}\n" for problem in error.problems)
        sys.stderr.write(f"The configuration is not valid:\n{problems}")
        sys.exit(EXIT_CONFIGURATION)
    except HoldfastError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


def _config_commands(settings_type: type[ServiceSettings]) -> typer.Typer:
    app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)

    @app.callback()
    def config_group() -> None:
        """Look at the configuration."""

    @app.command()
    def explain(
        options: Options = None,
        *,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, by the settings' names.")] = False,
    ) -> None:
        """Print every setting, the layer that it came from and the layers that this one shadows."""
        explained = config.explain(settings_type, options or ())
        if as_json:
            found = {one.name: {"value": one.value, "layer": one.layer, "shadowed": one.shadowed} for one in explained}
            typer.echo(json.dumps(found, indent=2))
            return
        for setting in explained:
            shadowed = f" (shadows: {', '.join(setting.shadowed)})" if setting.shadowed else ""
            typer.echo(f"{setting.name} = {setting.value}  [{setting.layer}]{shadowed}")
        budget = service_budget(settings_type.service_name, config.load(settings_type, options or ()).database)
        typer.echo(f"# connections to the database, at most: {budget} ({budget.total} in all)")

    return app


def _jobs_commands(settings_type: type[ServiceSettings]) -> typer.Typer:
    app = typer.Typer(help="Look after jobs, above all those that no attempt could save.", no_args_is_help=True)

    def run[T](options: Options, use: Callable[[AsyncSession], Awaitable[T]]) -> T:
        return asyncio.run(in_transaction(config.load_database(settings_type, options or ()), use))

    @app.command()
    def dead(filters: Filters = None, options: Options = None) -> None:
        """List the dead letters, the oldest first."""
        which = dead_letters.Filter.parse(filters or ())
        found = run(options, partial(dead_letters.list_dead, which=which))
        list_lines(
            (f"{job.id}  {job.name}  attempts {job.attempt}/{job.max_attempts}  {job.last_error}" for job in found),
            what="dead letters" + " that the filters leave" * bool(filters),
        )

    @app.command()
    def show(job_id: int, options: Options = None) -> None:
        """Show one job, whatever its state."""
        _print_job(job_id, run(options, partial(dead_letters.show, job_id=job_id)))

    @app.command()
    def stats(options: Options = None) -> None:
        """Count the jobs by queue, name and state."""
        found = run(options, dead_letters.stats)
        list_lines(
            (f"{row.queue}  {row.name}  {row.status}  {row.jobs}  oldest {row.oldest_age:.1f} s" for row in found),
            what="jobs",
        )

    _add_replay(app, run)
    _add_drain(app, settings_type)
    return app


def _add_replay(app: typer.Typer, run: Run) -> None:
    @app.command()
    def replay(
        job_id: Annotated[int | None, typer.Argument(metavar="[ID]")] = None,
        *,
        every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
        filters: Filters = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which ones.")] = False,
        options: Options = None,
    ) -> None:
        """Make dead letters ready to run again."""
        if (job_id is None) != every or (filters and not every):
            raise HoldfastError("say which one: an ID, or --all with or without --filter")
        which = dead_letters.Filter.parse(filters or ())
        replayed = run(options, partial(dead_letters.replay, job_id=job_id, which=which, dry_run=dry_run))
        if job_id is not None and not replayed:
            raise HoldfastError(f"job {job_id} is no dead letter")
        if replayed and not dry_run:
            audit("jobs_replayed", job_ids=list(replayed))
        typer.echo(f"{'would replay' if dry_run else 'replayed'} {numbered(replayed)}")


def _add_drain(app: typer.Typer, settings_type: type[ServiceSettings]) -> None:
    @app.command()
    def drain(
        timeout: Timeout = 60.0,
        queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
        options: Options = None,
    ) -> None:
        """Wait until no job is due and none runs. Jobs that are due later do not count: their time has not come."""
        settings = config.load_database(settings_type, options or ())
        left = asyncio.run(_drained(settings, queue=queue, timeout_seconds=timeout))
        if not left.is_drained:
            raise HoldfastError(f"not drained in {timeout:g} s: {left.due} due, {left.running} running")
        typer.echo(f"drained; {left.later} due later")


async def _drained(settings: DatabaseSettings, *, queue: str | None, timeout_seconds: float) -> dead_letters.WorkLeft:
    """What is left when the queue is drained, or when the time is over."""
    database = Database(settings, pool="cli", application_name="cli")
    deadline = time.monotonic() + timeout_seconds
    try:
        while True:
            async with database.read() as session:
                left = await dead_letters.work_left(session, queue=queue)
            if left.is_drained or time.monotonic() >= deadline:
                return left
            await asyncio.sleep(min(_DRAIN_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
    finally:
        await database.close()


def _print_job(job_id: int, job: dead_letters.JobRecord | None) -> None:
    if job is None:
        raise HoldfastError(f"there is no job {job_id}: it has completed, or never was")
    for field in fields(job):
        typer.echo(f"{field.name}: {getattr(job, field.name)}")
