"""The state folder: what is in it, and how to remove exactly that."""

import shutil
from contextlib import suppress
from pathlib import Path

from holdfast_local.placement import outside_folder, remove_outside

_FOLDERS = ("postgres", "valkey", "secrets", "logs")
_FILES = (
    "payment-provider.sqlite*",
    "mailbox.sqlite*",
    "customer-endpoint.sqlite*",
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
