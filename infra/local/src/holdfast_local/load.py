"""`holdfast-local load`: Locust's users on the platform, then the oracle. docs/tutorial/load.md tells it."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

from rich.console import Console

from holdfast_local.audit import ask_oracle
from holdfast_local.errors import RunnerError
from holdfast_local.history import FILE
from holdfast_local.installation import Installation
from holdfast_local.platform import running_platform
from holdfast_local.runs import running_record
from holdfast_local.settings import PROJECT, LocalSettings
from holdfast_local.state import fresh_state
from holdfast_local.topology import NO_OVERRIDES, Overrides

_LOADTEST = PROJECT / "loadtest"
_LOCUST = Path(sys.executable).with_name("locust")
_ORACLE_SECONDS = 90  # as long as an order may be open
_GENEROUS: Mapping[str, object] = {
    "rate_limit.rate_per_second": 1000,
    "rate_limit.burst": 1000,
    "rate_limit.edges": '{"orders": {"payments": 10000}, "payments": {"provider": 10000}}',
}
_OVERRIDES: Mapping[str, Overrides] = {
    # Two slots for charges make a small load an overload, and the clients' limits must not hide it.
    "overload": {
        "orders-api": {**_GENEROUS, "backlog.minimum_rate": 1},
        "payments-api": {**_GENEROUS, "backlog.minimum_rate": 1},
        "orders-worker": _GENEROUS,
        "payments-worker": {**_GENEROUS, "jobs.concurrency": 2},
    }
}
"""Settings of the platform that is started for a scenario."""


async def load(settings: LocalSettings, console: Console, *, scenario: str, options: Sequence[str]) -> None:
    """On the running platform; if there is none, on one of its own that is gone afterwards. `options` are the
    locustfile's.

    Raises RunnerError when the scenario does not exist, its limits were not kept or an invariant is violated.
    """
    if scenario not in (names := scenario_names()):
        raise RunnerError(f"there is no scenario {scenario!r}; there are {', '.join(names)}")
    if not _LOCUST.exists():
        raise RunnerError("Locust is not installed: `make load` installs it")
    async with _any_platform(settings, console, scenario) as installation:
        console.print(f"Load: {scenario}, on {installation.url('orders')}")
        page = settings.state / "reports" / f"load-{scenario}.html"
        page.unlink(missing_ok=True)
        kept = await _run_locust(installation, scenario, page, options) == 0
        console.print("The oracle waits until nothing is under way.")
        wait = ["--wait", str(_ORACLE_SECONDS)]
        code, verdict = await ask_oracle(installation, wait)
        console.print(verdict.rstrip(), markup=False, soft_wrap=True)
        holds = code == 0
        if page.exists():
            add_verdict(page, "The oracle", verdict)
            console.print(f"Charts: {page}", soft_wrap=True)
    problems = [
        *([] if kept else [f"the limits of {scenario} were not kept"]),
        *([] if holds else ["the oracle did not find that every invariant holds"]),
    ]
    if problems:
        raise RunnerError("\n".join(problems))


def scenario_names() -> list[str]:
    return sorted(path.stem for path in (_LOADTEST / "scenarios").glob("[a-z]*.py"))


@asynccontextmanager
async def _any_platform(settings: LocalSettings, console: Console, scenario: str) -> AsyncIterator[Installation]:
    record = running_record(settings.state)
    if record and record.inside is None:  # one of another run's own is nobody else's: `fresh_state` says so
        if record.ready_seconds is None:
            raise RunnerError("Holdfast is still starting: `make status` shows what")
        if scenario in _OVERRIDES:
            raise RunnerError(f"{scenario} needs a platform with other settings: stop this one first (`make down`)")
        yield Installation.load(settings)
        return
    with fresh_state(settings, "load") as own:
        console.print(
            f"Holdfast is not running: starting one for this run; its state is in {own.state}", soft_wrap=True
        )
        async with running_platform(own, overrides=_OVERRIDES.get(scenario, NO_OVERRIDES)) as platform:
            yield platform.installation


def add_verdict(page: Path, title: str, verdict: str) -> None:
    """Under the scenario's own verdict, in the section that loadtest/report.py put at the top of Locust's page."""
    lines = f"\n\n<strong>{escape(title)}</strong>\n{escape(verdict.rstrip())}</section>"
    page.write_text(page.read_text("utf-8").replace("</section>", lines, 1), "utf-8")


async def _run_locust(installation: Installation, scenario: str, page: Path, options: Sequence[str]) -> int:
    """Its exit code. It prints to where we do, and its charts to `page`. Cancelled, it ends at once and prints nothing
    more.
    """
    sys.stdout.flush()  # what was printed before comes before
    process = await asyncio.create_subprocess_exec(
        *_command(installation, scenario, page, options),
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


def _command(installation: Installation, scenario: str, page: Path, options: Sequence[str]) -> list[str | Path]:
    """Keys and the secret are read from their files: the command line shows only where those are."""
    command: list[str | Path] = [_LOCUST, "--locustfile", _LOADTEST / "locustfile.py", "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--host", installation.url("orders"), "--scenario", scenario]
    command += ["--ingest", installation.url("webhook_ingest"), "--provider", installation.url("payment_provider")]
    command += ["--webhook-secret", installation.secrets.of("payment-provider") / "webhook_secret"]
    command += ["--history", installation.settings.state / FILE]
    return [*command, "--keys", installation.secrets.of("clients"), "--html", page, *options]


def _environment() -> dict[str, str]:
    """Without what would turn the load elsewhere, or Locust into something else."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "LOAD_", "LOCAL_"))}
