"""`orders jobs …`: an operator lists jobs, replays dead letters (jobs that have failed for good), and waits until a
queue is drained.
"""

import asyncio
import time
from dataclasses import fields
from functools import partial
from typing import Annotated

import typer

from chassis import config
from chassis.app.cli.operator import Options, Run, Timeout, audit, list_lines, numbered, runner_of
from chassis.config.settings import DatabaseSettings, ServiceSettings
from chassis.errors import HoldfastError
from chassis.jobs import dead_letters
from chassis.pooling import Database

# Seconds between two counts of the jobs that are left. The interval is long enough that the counts hardly load the
# database.
_DRAIN_LOOK_SECONDS = 0.5

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", metavar="NAME=VALUE", help="name=…, queue=… or error=… (a part of the error). Repeatable."
    ),
]


def job_commands(settings_type: type[ServiceSettings]) -> typer.Typer:
    """The `jobs` commands of one service."""
    app = typer.Typer(help="List jobs, replay dead letters, and wait for queues.", no_args_is_help=True)
    run = runner_of(settings_type)

    @app.command()
    def dead(filters: Filters = None, options: Options = None) -> None:
        """List the dead letters, the oldest first."""
        which = dead_letters.Filter.parse(filters or ())
        found = run(options, partial(dead_letters.list_dead, which=which))
        list_lines(
            (f"{job.id}  {job.name}  attempts {job.attempt}/{job.max_attempts}  {job.last_error}" for job in found),
            what="dead letters" + " that the filters select" * bool(filters),
        )

    @app.command()
    def show(job_id: int, options: Options = None) -> None:
        """Show one job in any state."""
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
        every: Annotated[bool, typer.Option("--all", help="Replay all dead letters.")] = False,
        filters: Filters = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the dead letters and change nothing.")] = False,
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
        queue: Annotated[str | None, typer.Option(help="Wait only for the jobs of this queue.")] = None,
        options: Options = None,
    ) -> None:
        """Wait until no job is due and no job runs. The command does not wait for jobs that are due later."""
        settings = config.load_database(settings_type, options or ())
        left = asyncio.run(_drained(settings, queue=queue, timeout_seconds=timeout))
        if not left.is_drained:
            raise HoldfastError(f"not drained in {timeout:g} s: {left.due} due, {left.running} running")
        typer.echo(f"drained; {left.later} due later")


async def _drained(settings: DatabaseSettings, *, queue: str | None, timeout_seconds: float) -> dead_letters.WorkLeft:
    """Wait until no job of the queue is due or runs, or until the time is over. Returns the work that is left."""
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
        raise HoldfastError(f"there is no job {job_id}: it has completed, or never existed")
    for field in fields(job):
        typer.echo(f"{field.name}: {getattr(job, field.name)}")
