"""The dev image's entry point: `reload.py COMMAND ARGUMENT…` runs a service and restarts it when a source changes.

Only what stays (`api`, `worker`) is restarted; any other command just takes this process's place. Sources are looked at
twice a second: that sees whatever copies them, on any file system, and needs no package.
"""

# ruff: noqa: INP001  a script, in no package

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SOURCES = Path(__file__).parent
SUFFIXES = frozenset({".py", ".sql", ".lua"})
STAYING = frozenset({"api", "worker"})
POLL_SECONDS = 0.5
AGAIN_SECONDS = 5.0
"""After it ended by itself: what it needs may have come, and a restart of the container would lose the new sources."""


def main() -> None:
    command = sys.argv[1:]
    if STAYING.isdisjoint(command[1:2]):
        os.execvp(command[0], command)  # noqa: S606  the image names it
    run_and_reload(command, stop_signals())


def stop_signals() -> list[int]:
    """Filled by SIGTERM and SIGINT. No exception: one could come between a service's start and who would end it."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: received.append(number))
    return received


def run_and_reload(command: Sequence[str], stopping: Sequence[int]) -> None:
    while not stopping:
        seen = versions()
        service = subprocess.Popen(command)  # noqa: S603  the image names it
        wait_for_reason(service, seen, stopping)
        service.terminate()
        service.wait()


def wait_for_reason(
    service: subprocess.Popen[bytes], seen: Mapping[Path, tuple[int, int]], stopping: Sequence[int]
) -> None:
    """Return when the service has to be stopped, or started anew."""
    ended_at = None
    while not stopping:
        time.sleep(POLL_SECONDS)
        if changed := versions().items() ^ seen.items():
            say(f"{min(changed)[0]} changed: restarting")
            return
        if ended_at is None and service.poll() is not None:
            ended_at = time.monotonic()
            say(f"ended with {service.returncode}: starting again in {AGAIN_SECONDS:g} s, or at a change")
        if ended_at is not None and time.monotonic() > ended_at + AGAIN_SECONDS:
            return


def versions() -> dict[Path, tuple[int, int]]:
    """Time of change and size of every source."""
    found = {}
    for path in SOURCES.rglob("*"):
        if path.suffix in SUFFIXES:
            with suppress(FileNotFoundError):  # being replaced
                status = path.stat()
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def say(text: str) -> None:
    sys.stderr.write(f"reload: {text}\n")


if __name__ == "__main__":
    main()
