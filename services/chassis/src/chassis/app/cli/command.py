"""The command of a service. It imports a subcommand's code only when the subcommand runs.

An API or worker process must start quickly: in a roll-out, the processes that start compete for the CPU with those that
serve. So the service names its settings, functions and groups of commands as text, and this module imports nothing from
other libraries. `orders api` then loads neither Typer nor Alembic, and `orders migrate` loads no web framework.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name

from chassis.errors import ConfigurationError, HoldfastError
from chassis.fast import lean_imports
from chassis.process import garbage

# The exit code for an invalid configuration. Typer exits with the same code for a wrong option. This is right, because
# in both cases a restart would fail again.
EXIT_CONFIGURATION = 2

_OPTION = "--set"
_SERVING = ("api", "worker")


def build_cli(
    *, settings: str, api: str, worker: str, migrations: Path, groups: str | None = None
) -> Callable[[], None]:
    """Returns the function that runs the service's command. The service names this function in `[project.scripts]`.

    `settings` names the service's settings, such as `"orders.settings:OrdersSettings"`. `api` and `worker` name
    functions, such as `"orders.api:run"`, which are called with the service's `Live` settings. `migrations` is the
    folder of the service's Alembic revisions. `groups` names a function that returns further groups of commands, by
    name.
    """
    functions = {"api": api, "worker": worker}

    def serve(role: str, options: Sequence[str]) -> None:
        lean_imports.import_libraries(role)
        load_live = resolve_name("chassis.config:load_live")
        resolve_name(functions[role])(load_live(resolve_name(settings), options))

    def run(arguments: Sequence[str]) -> None:
        garbage.pause()
        role, options = arguments[0] if arguments else "", _given_settings(arguments[1:])
        if role in _SERVING and options is not None:
            serve(role, options)
            return
        build = resolve_name("chassis.app.cli.commands:build_commands")
        found = resolve_name(groups)() if groups else {}
        commands = build(resolve_name(settings), serve=serve, migrations=migrations, groups=found)
        garbage.freeze_start_up()
        _raise_on_signals()
        commands()

    return lambda: _run(run)


def _given_settings(arguments: Sequence[str]) -> list[str] | None:
    """The values of `--set`, or None if there are other arguments, such as `--help`, which Typer handles."""
    values = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option != _OPTION:
            return None
        if not equals:
            value = next(rest, "")
        if not value:
            return None
        values.append(value)
    return values


def _run(run: Callable[[Sequence[str]], None]) -> None:
    """Run the command. A `HoldfastError` is printed as one line, without a traceback."""
    _exit_on_signals()
    try:
        run(sys.argv[1:])
    except ConfigurationError as error:
        problems = "".join(f"  {problem}\n" for problem in error.problems)
        sys.stderr.write(f"The configuration is not valid:\n{problems}")
        sys.exit(EXIT_CONFIGURATION)
    except HoldfastError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _exit_on_signals() -> None:
    """From now on a signal ends the process at once: while a process imports its code, no work is under way. An
    exception could surface anywhere in that code, which might discard it or print it as a traceback. The API and the
    worker later install their own handlers (`chassis.process.ending`).

    The first process of a container ignores SIGTERM unless the process has a handler for this signal.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os._exit(128 + received))


def _raise_on_signals() -> None:
    """From now on a signal raises an exception, so that an operator's command rolls its work back and closes its
    connections. Asyncio cancels the command at SIGINT only if Python's own handler is installed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda received, _: sys.exit(128 + received))
