"""`holdfast-local load`: Locust's users on the platform, then the oracle. docs/tutorial/load.md tells it."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from holdfast_local.audit import run_oracle
from holdfast_local.errors import RunnerError
from holdfast_local.installation import Installation
from holdfast_local.platform import running_platform
from holdfast_local.runs import RunRecord, running_record
from holdfast_local.settings import PROJECT, LocalSettings
from holdfast_local.state import fresh_state

_LOADTEST = PROJECT / "loadtest"
_LOCUST = Path(sys.executable).with_name("locust")
_ORACLE_SECONDS = 90  # as long as an order may be open


async def load(settings: LocalSettings, console: Console, *, scenario: str, options: Sequence[str]) -> None:
    """On the running platform; if there is none, on one of its own that is gone afterwards. `options` are the
    locustfile's.

    Raises RunnerError when the scenario does not exist, its limits were not kept or an invariant is violated.
    """
    if scenario not in (names := scenario_names()):
        raise RunnerError(f"there is no scenario {scenario!r}; there are {', '.join(names)}")
    if not _LOCUST.exists():
        raise RunnerError("Locust is not installed: `make load` installs it")
    async with _any_platform(settings, console) as (installation, record):
        console.print(f"Load: {scenario}, on {installation.url('orders')}")
        kept = await _run_locust(installation, scenario, options) == 0
        console.print("The oracle waits until nothing is under way.")
        holds = await asyncio.to_thread(run_oracle, installation, record, ["--wait", str(_ORACLE_SECONDS)]) == 0
    problems = [
        *([] if kept else [f"the limits of {scenario} were not kept"]),
        *([] if holds else ["the oracle did not find that every invariant holds"]),
    ]
    if problems:
        raise RunnerError("\n".join(problems))


def scenario_names() -> list[str]:
    return sorted(path.stem for path in (_LOADTEST / "scenarios").glob("[a-z]*.py"))


@asynccontextmanager
async def _any_platform(settings: LocalSettings, console: Console) -> AsyncIterator[tuple[Installation, RunRecord]]:
    if record := running_record(settings.state):
        if record.ready_seconds is None:
            raise RunnerError("Holdfast is still starting: `make status` shows what")
        yield Installation.load(settings), record
        return
    with fresh_state(settings, "load") as own:
        console.print(
            f"Holdfast is not running: starting one for this run; its state is in {own.state}", soft_wrap=True
        )
        async with running_platform(own) as platform:
            yield platform.installation, platform.record


async def _run_locust(installation: Installation, scenario: str, options: Sequence[str]) -> int:
    """Its exit code. It prints to where we do. Cancelled, it ends at once and prints nothing more."""
    sys.stdout.flush()  # what was printed before comes before
    process = await asyncio.create_subprocess_exec(
        *_command(installation, scenario, options),
        stdin=DEVNULL,  # or it would take the terminal's keys
        stderr=STDOUT,  # where its table goes: together with what it is judged by
        env=_environment(),
        start_new_session=True,  # Ctrl-C reaches us alone
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _command(installation: Installation, scenario: str, options: Sequence[str]) -> list[str | Path]:
    """Keys are read from their files: the command line shows only where those are."""
    command: list[str | Path] = [_LOCUST, "--locustfile", _LOADTEST / "locustfile.py", "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--host", installation.url("orders"), "--scenario", scenario]
    return [*command, "--keys", installation.secrets.of("clients"), *options]


def _environment() -> dict[str, str]:
    """Without what would turn the load elsewhere, or Locust into something else."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "LOAD_", "LOCAL_"))}
