"""All subcommands of a service's command, with their help texts.

API and worker processes do not import this module, so they do not load Typer.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from chassis import config
from chassis.app.cli.api_keys import api_key_commands
from chassis.app.cli.config import config_commands
from chassis.app.cli.events import event_commands
from chassis.app.cli.jobs import job_commands
from chassis.app.cli.operator import Options, Timeout
from chassis.config.settings import ServiceSettings
from chassis.errors import HoldfastError
from chassis.logging import debugging


def build_commands(
    settings_type: type[ServiceSettings],
    *,
    serve: Callable[[str, Sequence[str]], None],
    migrations: Path,
    groups: Mapping[str, typer.Typer],
) -> typer.Typer:
    """The command with its subcommands. `serve` runs a process of a role (`api` or `worker`) with the given options.
    `migrations` is the folder of the service's Alembic revisions. `groups` are the service's own groups of commands.
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
        serve("api", options or ())

    @app.command("worker")
    def run_worker(options: Options = None) -> None:
        """Run jobs, consume events and publish the events in the outbox."""
        serve("worker", options or ())

    @app.command()
    def migrate(timeout: Timeout = 0.0, options: Options = None) -> None:
        """Bring the database's schema up to date. The command first waits until the database accepts connections."""
        from chassis.migrations import migrate as run_migrations  # noqa: PLC0415  only migrations need Alembic

        settings = config.load_database(settings_type, options or ())
        asyncio.run(run_migrations(settings, migrations, timeout_seconds=timeout, tell=typer.echo))

    @app.command()
    def wait_for_schema(timeout: Timeout = 60.0, options: Options = None) -> None:
        """Wait until the database has the schema that this code needs, or a newer schema."""
        from chassis.migrations import wait_for_schema as wait  # noqa: PLC0415

        settings = config.load_database(settings_type, options or ())
        asyncio.run(wait(settings, migrations, timeout_seconds=timeout, tell=typer.echo))

    @app.command("debug-header")
    def print_debug_header(
        seconds: Annotated[int, typer.Option(min=1, max=debugging.MAX_SECONDS, help="The header's lifetime.")] = 60,
        options: Options = None,
    ) -> None:
        """Print a header for curl -H: requests with this header are logged at the level DEBUG."""
        key = config.load_log(settings_type, options or ()).debug_key
        if key is None:
            raise HoldfastError("the setting log.debug_key is needed to sign the header")
        value = debugging.sign(key.get_secret_value(), expires=int(time.time()) + seconds)
        typer.echo(f"{debugging.HEADER}: {value}")

    app.add_typer(config_commands(settings_type), name="config")
    app.add_typer(job_commands(settings_type), name="jobs")
    app.add_typer(event_commands(settings_type), name="events")
    app.add_typer(api_key_commands(settings_type), name="api-keys")
    for name, group in groups.items():
        app.add_typer(group, name=name)
    return app
