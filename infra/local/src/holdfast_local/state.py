"""The state folder: what is in it, how to remove exactly that, and one for a single run."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast_local.placement import outside_folder, remove_outside
from holdfast_local.private import private_folder
from holdfast_local.runs import end_leftovers, only_run, running_record
from holdfast_local.settings import LocalSettings, load_settings

_FOLDERS = ("postgres", "valkey", "secrets", "logs")
_FILES = (
    "payment-provider.sqlite*",
    "mailbox.sqlite*",
    "customer-endpoint.sqlite*",
    "history.jsonl",
    "run.json",
    ".run.json",
    "lock",
)


def remove_state(state: Path) -> None:
    """Delete what the runner made, inside and outside the folder; other files in it stay, and then so does it."""
    remove_outside(outside_folder(state / "postgres"))
    for name in _FOLDERS:
        shutil.rmtree(state / name, ignore_errors=True)
    for pattern in _FILES:
        for file in state.glob(pattern):
            file.unlink()
    with suppress(OSError):  # it is not empty, or was never made
        state.rmdir()


@contextmanager
def fresh_state(settings: LocalSettings, name: str) -> Iterator[LocalSettings]:
    """Settings with a folder `name` and servers of a run's own, empty at the start; at the end only the logs stay.

    The platform's own folder is locked meanwhile: `up` and the run exclude each other, and `down` stops either.
    """
    own = _inside(settings, name)
    state = own.state
    with only_run(settings.state, inside=name):
        end_leftovers(state)
        remove_state(state)
        try:
            yield own
        finally:
            _keep_only_logs(state)


def present_settings() -> LocalSettings:
    """Those of the platform that runs: while a run has one of its own (`make load`), of that."""
    settings = load_settings()
    record = running_record(settings.state)
    return _inside(settings, record.inside) if record and record.inside else settings


def _inside(settings: LocalSettings, name: str) -> LocalSettings:
    return settings.model_copy(update={"state": settings.state / name, "postgres_dsn": None, "valkey_dsn": None})


def _keep_only_logs(state: Path) -> None:
    logs, aside = state / "logs", state.with_name(f"{state.name}-logs")
    if logs.exists():
        logs.rename(aside)
    remove_state(state)
    if aside.exists():
        private_folder(state)
        aside.rename(logs)
