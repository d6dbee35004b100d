"""Asking the oracle about the running platform, or for an order's story: it is told the addresses and passwords of this
installation.
"""

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from pathlib import Path

from holdfast_local.errors import RunnerError
from holdfast_local.history import FILE
from holdfast_local.installation import Installation
from holdfast_local.runs import running_record
from holdfast_local.settings import LocalSettings

_ORACLE = Path(sys.executable).with_name("oracle")
_HOLDFAST = Path(sys.executable).with_name("holdfast")


def audit_running(settings: LocalSettings, options: Sequence[str]) -> int:
    """`run_oracle` about the platform that runs in the state folder. Raises RunnerError when none does."""
    _running(settings)
    return run_oracle(Installation.load(settings), options)


def explain_running(settings: LocalSettings, arguments: Sequence[str]) -> int:
    """Run `holdfast explain` about the platform that runs in the state folder, and return its exit code: 0 told, 1 not
    found, 2 unreadable. Raises RunnerError when none runs.
    """
    _running(settings)
    command: list[str | Path] = [_HOLDFAST, "explain", *arguments, "--config", "-"]
    told = configuration(Installation.load(settings))
    return subprocess.run(command, input=told, text=True, check=False).returncode


def _running(settings: LocalSettings) -> None:
    if running_record(settings.state) is None:
        raise RunnerError("Holdfast is not running: start it with `make up`")


def run_oracle(installation: Installation, options: Sequence[str] = ()) -> int:
    """Run `oracle` with further options, which win over ours, and return its exit code: 0 holds, 1 violated, 2 unknown.

    It gets the history of the state folder. Passwords go through the oracle's standard input: neither the process list
    nor a file shows them.
    """
    sys.stdout.flush()  # what was printed before comes before
    command = _command(installation, options)
    return subprocess.run(command, input=configuration(installation), text=True, check=False).returncode


async def ask_oracle(installation: Installation, options: Sequence[str] = ()) -> tuple[int, str]:
    """`run_oracle`, and what it printed. Cancelled, it ends the oracle."""
    process = await asyncio.create_subprocess_exec(
        *_command(installation, options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,  # Ctrl-C reaches us alone
    )
    try:
        printed, _ = await process.communicate(configuration(installation).encode())
    finally:
        if process.returncode is None:
            process.kill()
        code = await process.wait()
    return code, printed.decode()


def _command(installation: Installation, options: Sequence[str]) -> list[str | Path]:
    history = installation.settings.state / FILE
    told: list[str | Path] = ["--history", history] if history.exists() else []
    return [_ORACLE, "--config", "-", *told, *options]


def configuration(installation: Installation) -> str:
    """Where the oracle finds everything of this installation: TOML, whose strings are written as JSON's."""
    values = {
        "orders_dsn": installation.database_dsn("orders"),
        "payments_dsn": installation.database_dsn("payments"),
        "notifications_dsn": installation.database_dsn("notifications"),
        "webhook_ingest_dsn": installation.database_dsn("webhook-ingest"),
        "provider_url": installation.url("payment_provider"),
        "mailbox_url": installation.url("mailbox"),
        "customer_url": installation.url("customer_endpoint"),
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
