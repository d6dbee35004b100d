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
from typing import Never

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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run_and_reload(command)


def run_and_reload(command: Sequence[str]) -> Never:
    """Until SystemExit or KeyboardInterrupt; then the service is stopped first."""
    while True:
        seen = versions()
        service = subprocess.Popen(command)  # noqa: S603  the image names it
        try:
            wait_for_reason(service, seen)
        finally:
            service.terminate()
            service.wait()


def wait_for_reason(service: subprocess.Popen[bytes], seen: Mapping[Path, tuple[int, int]]) -> None:
    """Return when the service has to be started anew."""
    ended_at = None
    while True:
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
