"""The command of a service with all its subcommands.

A service names the functions for `api` and `worker` as text. Each function is imported only when its subcommand runs,
so `orders migrate` does not load a web framework, and `orders api` does not load Alembic.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Annotated

import typer

from chassis import config
from chassis.app.cli.api_keys import api_key_commands
from chassis.app.cli.config import config_commands
from chassis.app.cli.events import event_commands
from chassis.app.cli.jobs import job_commands
from chassis.app.cli.operator import Options, Timeout
from chassis.config.settings import ServiceSettings
from chassis.errors import ConfigurationError, HoldfastError
from chassis.logging import debugging

# The exit code for an invalid configuration. Typer exits with the same code for a wrong option: in both cases a restart
# would fail again.
EXIT_CONFIGURATION = 2


def build_cli[S: ServiceSettings](
    settings_type: type[S],
    *,
    api: str,
    worker: str,
    migrations: Path,
    groups: Mapping[str, typer.Typer] = MappingProxyType({}),
) -> Callable[[], None]:
    """Returns the function that runs the service's command. The service names this function in `[project.scripts]`.

    `api` and `worker` name functions, such as `"orders.api:run"`. The subcommands call these functions with the
    service's `Live` settings. `migrations` is the folder of the service's Alembic revisions. `groups` are further
    groups of commands, by name.
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
    return lambda: _run(app)


def _run(app: typer.Typer) -> None:
    """Run the command. A `HoldfastError` is printed as one line, without a traceback."""
    # The first process of a container ignores SIGTERM unless the process has a handler for this signal. The API
    # and the worker later install their own handlers.
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
