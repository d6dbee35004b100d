"""The running platform as an object: `up`, the demo and the tests of failures stand on it."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast_local import topology
from holdfast_local.errors import RunnerError
from holdfast_local.history import CrashNotes, History
from holdfast_local.installation import Installation
from holdfast_local.ports import holder, is_taken
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.private import private_folder
from holdfast_local.programs import Program
from holdfast_local.runs import ProgramRecord, RunRecord, only_run, read_record, record_of
from holdfast_local.settings import LocalSettings
from holdfast_local.supervisor import Entry, Event, RestartPolicy, Supervisor
from holdfast_local.valkey import EmbeddedValkey

type OnEvent = Callable[[Event], None]
type Adapt = Callable[[Program], Program]
"""What runs instead of a program of the topology: a test may start a composition root of its own."""


@dataclass(kw_only=True)
class Platform:
    """`ready_seconds` is the time from the start of the runner's work until every process was ready."""

    installation: Installation
    supervisor: Supervisor
    record: RunRecord
    history: History

    @property
    def ready_seconds(self) -> float:
        return self.record.ready_seconds or 0.0

    @property
    def outside_folder(self) -> Path | None:
        """Where PostgreSQL lives when `nobody` cannot reach the state folder or the programs."""
        server = self.installation.postgres
        return server.location.outside if isinstance(server, EmbeddedPostgres) else None

    def pid(self, program: str) -> int:
        """The present process of a program (`orders-worker`); another after a restart."""
        process = self._entry(program).process
        if process is None:
            raise RunnerError(f"{program} has not been started")
        return process.pid

    def restarts(self, program: str) -> int:
        """How often the program was started again since the platform is up."""
        return self._entry(program).restarts

    def kill(self, program: str, signal_number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a program's process, as a fault. `until_ready` then waits for its successor."""
        self._entry(program).ready.clear()
        os.kill(self.pid(program), signal_number)

    async def until_ready(self, program: str) -> None:
        """Return once the program is ready (again)."""
        await self._entry(program).ready.wait()

    def _entry(self, program: str) -> Entry:
        return self.supervisor.entries[program]


@asynccontextmanager
async def running_platform(
    settings: LocalSettings,
    *,
    on_event: OnEvent = lambda _: None,
    overrides: topology.Overrides = topology.NO_OVERRIDES,
    adapt: Adapt = lambda program: program,
    wanted: Callable[[Program], bool] = lambda _: True,
    policy: RestartPolicy | None = None,
) -> AsyncIterator[Platform]:
    """Everything that is `wanted`, started in order and ready; stopped in reverse at the end, whatever ended it.

    Raises RunnerError, with nothing left running, when another runner has the state folder, a port is taken or a
    program fails to start. Cancelling it while it stops kills what is left.
    """
    started_at = time.monotonic()
    _note_killed_runner(settings.state)
    with only_run(settings.state) as record:
        run = _Run(settings.state, record, on_event, policy)
        try:
            installation = Installation.load(settings)
            servers = topology.servers(installation)
            services = [adapt(of) for of in topology.services(installation, overrides) if wanted(of)]
            refuse_taken_ports([*servers, *services])
            await _prepare_servers(installation)
            await run.supervisor.start(servers)
            await installation.create_databases()
            await run.supervisor.start(services)
            run.note_ready(time.monotonic() - started_at)
            yield Platform(installation=installation, supervisor=run.supervisor, record=run.record, history=run.history)
        finally:
            await run.supervisor.stop()


def _note_killed_runner(state: Path) -> None:
    """A runner that was killed took its processes along, at a moment since it last wrote its record."""
    record = read_record(state)
    if record is not None and record.runner.find() is None:
        since = datetime.fromtimestamp((state / "run.json").stat().st_mtime, UTC)
        History(state).note_interruption("the runner was killed", since, datetime.now(UTC))


class _Run:
    """A supervisor whose every change is written to the run record and every crash to the history, then passed on."""

    def __init__(self, state: Path, record: RunRecord, on_event: OnEvent, policy: RestartPolicy | None) -> None:
        self.supervisor = Supervisor(on_event=self._note, policy=policy)
        self.record = record
        self.history = History(state)
        self._crashes = CrashNotes(self.history)
        self._state = state
        self._on_event = on_event

    def note_ready(self, seconds: float) -> None:
        self._write({"ready_seconds": seconds})

    def _note(self, event: Event) -> None:
        entries = self.supervisor.entries.values()
        self._write({"programs": tuple(record for entry in entries if (record := _record(entry)))})
        self._crashes.note(event)
        self._on_event(event)

    def _write(self, update: Mapping[str, object]) -> None:
        self.record = self.record.model_copy(update=update)
        self.record.write(self._state)


def refuse_taken_ports(programs: Sequence[Program]) -> None:
    """Raise RunnerError naming every port that is taken, who wants it, who has it, and the variable that moves it."""
    problems = [
        f"port {port} is taken{_by(holder(port))}: {program.name} needs it; set {variable}, or LOCAL_PORT_OFFSET"
        for program in programs
        for variable, port in program.ports.items()
        if is_taken(port)
    ]
    if problems:
        raise RunnerError("\n".join(problems))


async def _prepare_servers(installation: Installation) -> None:
    private_folder(installation.settings.state / "logs")
    if isinstance(installation.valkey, EmbeddedValkey):
        installation.valkey.configure()
    if isinstance(installation.postgres, EmbeddedPostgres):
        await installation.postgres.initialise()


def _record(entry: Entry) -> ProgramRecord | None:
    process = record_of(entry.process.pid) if entry.process is not None and entry.is_running else None
    if process is None:
        return None
    return ProgramRecord(
        name=entry.program.name,
        process=process,
        address=entry.program.address,
        management=entry.program.management,
        restarts=entry.restarts,
        stop_signal=entry.program.stop_signal,
    )


def _by(holder: str | None) -> str:
    return f" by {holder}" if holder else ""
