"""What the commands of an operator share: how settings are given, one transaction, and who did it."""

import getpass
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Protocol

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.config.settings import DatabaseSettings
from chassis.pooling import Database
from chassis.pooling.wakeup import Wakeups

Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting, e.g. http.port=8001. Repeatable.")
]


class Run(Protocol):
    """Uses the service's database in one transaction."""

    def __call__[T](self, options: Options, use: Callable[[AsyncSession], Awaitable[T]]) -> T: ...


async def in_transaction[T](settings: DatabaseSettings, use: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """What `use` returns, once its transaction has committed and waiting workers were woken."""
    async with Wakeups(settings, application_name="cli") as wakeups:
        database = Database(settings, pool="cli", application_name="cli", notify=wakeups.notify)
        try:
            async with database.transaction() as session:
                return await use(session)
        finally:
            await database.close()


def audit(event: str, **fields: object) -> None:
    """Who changed what, as one line of JSON on standard error: standard output is the command's answer."""
    line = {"event": event, "by": getpass.getuser(), "at": datetime.now(UTC).isoformat(timespec="seconds"), **fields}
    sys.stderr.write(json.dumps(line) + "\n")


def list_lines(lines: Iterable[str], *, what: str) -> None:
    """Print each line. Where there is none, standard error says so, and standard output stays empty for a script."""
    is_empty = True
    for line in lines:
        is_empty = False
        typer.echo(line)
    if is_empty:
        typer.echo(f"there are no {what}", err=True)


def numbered(ids: Sequence[object]) -> str:
    """`2: 7, 9`, or `0` where there is none."""
    return f"{len(ids)}: {', '.join(map(str, ids))}" if ids else "0"
