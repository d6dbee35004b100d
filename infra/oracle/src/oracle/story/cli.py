"""`holdfast`: exit 0 when there is something to tell, 1 when there is no such order, 2 when nobody can say."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import UUID

import typer
from rich.console import Console

from oracle.sources import Databases, NoVerdict
from oracle.story.reading import read_order
from oracle.story.showing import WIDTH, as_json, show
from oracle.story.telling import tell

_UNKNOWN, _UNREADABLE = 1, 2

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
explain = typer.Typer(no_args_is_help=True, help="What happened, from what the databases keep.")
app.add_typer(explain, name="explain")


@explain.command()
def order(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The order's, as its 201 gave it.")],
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the DSNs, `-` for stdin; ORACLE_… variables override.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="A JSON object instead of lines.")] = False,
) -> None:
    """One order's story over all services: a line for everything that its databases remember, in time order."""
    try:
        order_id = UUID(id_)
    except ValueError:
        _end(_UNREADABLE, f"{id_!r} is no order's id: those are UUIDs, as in the answer to POST /v1/orders")
    try:
        records = asyncio.run(read_order(Databases.load(config, os.environ), order_id))
    except NoVerdict as error:
        _end(_UNREADABLE, str(error))
    if records is None:
        _end(_UNKNOWN, f"there is no order {order_id}")
    story = tell(records)
    if json_:
        print(as_json(story))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    show(console, story)


def _end(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(code)


def main() -> None:
    app()
