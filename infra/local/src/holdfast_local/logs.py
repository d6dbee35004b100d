"""Reading the processes' logs: the end of each, and what is added."""

import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from holdfast_local.errors import RunnerError

_LAST_LINES = 20
_POLL_SECONDS = 0.2


def print_logs(folder: Path, name: str | None, *, follow: bool) -> None:
    """Print the last lines of one log or of all, each line with its process when there are several.

    Raises RunnerError when there is no such log.
    """
    paths = _paths(folder, name)
    prefixes = {path: "" if len(paths) == 1 else f"{path.stem:<24}" for path in paths}
    files = {path: path.open(errors="replace") for path in paths}
    for path, file in files.items():
        _print(prefixes[path], deque(file, maxlen=_LAST_LINES))
    while follow:
        for path, file in files.items():
            _print(prefixes[path], file)
        time.sleep(_POLL_SECONDS)


def _paths(folder: Path, name: str | None) -> list[Path]:
    paths = sorted(folder.glob("*.log"))
    if name is None and paths:
        return paths
    if name is not None and folder / f"{name}.log" in paths:
        return [folder / f"{name}.log"]
    known = ", ".join(path.stem for path in paths) or "none yet: `make up` writes them"
    raise RunnerError(f"no such log; there are: {known}")


def _print(prefix: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"{prefix}{line}", end="", flush=True)
