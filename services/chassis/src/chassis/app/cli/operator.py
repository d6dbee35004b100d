"""Functions that the operator's commands share: run a transaction, print a list, and log a change for an audit."""

import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Protocol

import typer

from chassis import config
from chassis.config.settings import DatabaseSettings, ServiceSettings
from chassis.pooling import Database, Session
from chassis.pooling.wakeup import Wakeups

Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting, e.g. http.port=8001. Repeatable.")
]

Timeout = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="The longest time to wait.")]


class Run(Protocol):
    """Calls `use` with a session of the service's database, in one transaction."""

    def __call__[T](self, options: Options, use: Callable[[Session], Awaitable[T]]) -> T: ...


def runner_of(settings_type: type[ServiceSettings]) -> Run:
    """A `Run` that connects as the database role of the running service, not as the role that owns the schema."""

    def run[T](options: Options, use: Callable[[Session], Awaitable[T]]) -> T:
        return asyncio.run(in_transaction(config.load_database(settings_type, options or ()), use))

    return run


async def in_transaction[T](settings: DatabaseSettings, use: Callable[[Session], Awaitable[T]]) -> T:
    """Run `use` in a transaction, commit, notify the waiting workers, and return the result of `use`."""
    async with Wakeups(settings, application_name="cli") as wakeups:
        database = Database(settings, pool="cli", application_name="cli", notify=wakeups.notify)
        try:
            async with database.transaction() as session:
                return await use(session)
        finally:
            await database.close()


def audit(event: str, **fields: object) -> None:
    """Write one line of JSON to standard error: the change, and the user who made the change. Standard output is for
    the result of the command.
    """
    line = {"event": event, "by": getpass.getuser(), "at": datetime.now(UTC).isoformat(timespec="seconds"), **fields}
    sys.stderr.write(json.dumps(line) + "\n")


def list_lines(lines: Iterable[str], *, what: str) -> None:
    """Print each line. If there are no lines, write a message to standard error, so that a script reads an empty
    standard output.
    """
    is_empty = True
    for line in lines:
        is_empty = False
        typer.echo(line)
    if is_empty:
        typer.echo(f"there are no {what}", err=True)


def numbered(ids: Sequence[object]) -> str:
    """The number of ids and the ids as text, such as `2: 7, 9`; `0` if there are no ids."""
    return f"{len(ids)}: {', '.join(map(str, ids))}" if ids else "0"
