"""One run at a time: the lock, the record of what runs, and the end of what a killed runner left behind."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psutil
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from holdfast_local.errors import RunnerError
from holdfast_local.private import private_file, private_folder

_CLOCK_TOLERANCE_SECONDS = 1.0  # the system derives a process's start from a boot time that it may correct
_LEFTOVER_SECONDS = 10.0  # what a leftover gets to end by itself; then SIGKILL
_POLL_SECONDS = 0.1


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProcessRecord(Record):
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    created: float

    def find(self) -> psutil.Process | None:
        """The process, if it is still the one that was recorded."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.created) < _CLOCK_TOLERANCE_SECONDS
            if is_same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class ProgramRecord(Record):
    """A program of the present run; addresses are empty where there is none."""

    name: str
    process: ProcessRecord
    address: str
    management: str
    restarts: int
    stop_signal: signal.Signals


class RunRecord(Record):
    """What `run.json` in the state folder says. `ready_seconds` is None until everything was ready once. `inside` names
    the folder in it whose platform runs in its stead, with a record of its own: that of a single run.
    """

    runner: ProcessRecord
    since: AwareDatetime
    inside: str | None = None
    ready_seconds: float | None = None
    programs: tuple[ProgramRecord, ...] = ()

    def write(self, state: Path) -> None:
        draft = state / ".run.json"
        with private_file(draft, "wb") as file:
            file.write(self.model_dump_json(indent=1).encode())
        draft.replace(state / "run.json")


def record_of(pid: int) -> ProcessRecord | None:
    """None when the process has ended already."""
    with suppress(psutil.NoSuchProcess):
        return ProcessRecord(pid=pid, created=psutil.Process(pid).create_time())
    return None


def read_record(state: Path) -> RunRecord | None:
    """The record of the present run, or of one whose runner was killed."""
    try:
        return RunRecord.model_validate_json((state / "run.json").read_text())
    except (FileNotFoundError, ValidationError):
        return None


@contextmanager
def only_run(state: Path, *, inside: str | None = None) -> Iterator[RunRecord]:
    """Make this process the state folder's one runner; what an earlier, killed runner left is ended first.

    Raises RunnerError when another runner has the folder. The lock is the kernel's and goes with the process.
    """
    private_folder(state, is_passable=os.geteuid() == 0)
    with private_file(state / "lock", "ab") as lock:
        if not _try_lock(lock):
            raise RunnerError(_already_running(state))
        end_leftovers(state)
        record = RunRecord(runner=_ourselves(), since=datetime.now(UTC), inside=inside)
        record.write(state)
        try:
            yield record
        finally:
            (state / "run.json").unlink(missing_ok=True)


def running_record(state: Path) -> RunRecord | None:
    """The record of the run whose runner is alive, if there is one."""
    record = read_record(state)
    return record if record and record.runner.find() else None


def stop_runner(state: Path, *, deadline_seconds: float) -> bool:
    """Ask the runner to stop and wait until it has; False when none was running. Ends leftovers either way.

    Raises RunnerError when it has not stopped in time.
    """
    record = running_record(state)
    if record is not None:
        os.kill(record.runner.pid, signal.SIGTERM)
        deadline = time.monotonic() + deadline_seconds
        while record.runner.find():
            if time.monotonic() > deadline:
                raise RunnerError(f"the runner (pid {record.runner.pid}) is still stopping: `make status` shows what")
            time.sleep(_POLL_SECONDS)
    end_leftovers(state)
    return record is not None


def end_leftovers(state: Path) -> list[str]:
    """End what the record of a killed runner names and is still the same process; its names, in that order."""
    record = read_record(state)
    left = [(p, found) for p in record.programs if (found := p.process.find())] if record else []
    for program, process in left:
        _signal(process, program.stop_signal)
    _, alive = psutil.wait_procs([process for _, process in left], timeout=_LEFTOVER_SECONDS)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_LEFTOVER_SECONDS)
    (state / "run.json").unlink(missing_ok=True)
    return [program.name for program, _ in left]


def _ourselves() -> ProcessRecord:
    process = psutil.Process()
    return ProcessRecord(pid=process.pid, created=process.create_time())


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _already_running(state: Path) -> str:
    record = read_record(state)
    who = f" (pid {record.runner.pid}, since {record.since.astimezone():%H:%M:%S})" if record else ""
    return f"Holdfast is already running{who}: stop it with `make down`"
