"""`oracle`: exit 0 when every invariant holds, 1 when one is violated, 2 when there is no verdict."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from oracle.judging import examine
from oracle.report import EXIT_CODES, as_json, print_report
from oracle.sources import NoVerdict, Sources
from oracle.terms import Terms

DEFAULTS = Terms()
DEFAULT_WAIT = 90.0  # seconds: as long as an order may be open, so that whatever was there at the start is judged

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def audit(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the DSNs and URLs, `-` for stdin; ORACLE_… variables override.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait at most until nothing is under way.")] = (
        DEFAULT_WAIT
    ),
    history: Annotated[
        Path | None, typer.Option(help="File of what clients were answered, and of when sending was interrupted.")
    ] = None,
    allow_dead: Annotated[bool, typer.Option("--allow-dead", help="Dead letters are counted, not held against.")] = (
        DEFAULTS.allow_dead
    ),
    stuck_after: Annotated[
        float, typer.Option(min=0, help="Seconds from which a due job or event is stuck.")
    ] = DEFAULTS.stuck_after,
    open_after: Annotated[
        float, typer.Option(min=0, help="Seconds from which an open order, payment or mail is stuck.")
    ] = DEFAULTS.open_after,
    json_: Annotated[bool, typer.Option("--json", help="A JSON object instead of lines.")] = False,
) -> None:
    """Wait until the platform is quiet, then check every invariant over all databases, the ledger and the mailbox."""
    try:
        terms = Terms(allow_dead=allow_dead, stuck_after=stuck_after, open_after=open_after)
        sources = Sources.load(config, os.environ)
        report = asyncio.run(examine(sources, terms, wait=wait, history=history))
    except NoVerdict as error:
        if json_:
            print(json.dumps({"verdict": "none", "moving": "", "error": str(error), "findings": []}, indent=2))
        else:
            print(f"No verdict: {str(error).replace('\n', '\n            ')}", file=sys.stderr)
        raise typer.Exit(EXIT_CODES["none"]) from None
    if json_:
        print(as_json(report))
    else:
        print_report(Console(highlight=False), report)
    raise typer.Exit(EXIT_CODES[report.verdict])


def main() -> None:
    app()
