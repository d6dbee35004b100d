"""Keeps a set of programs running: dependency order, readiness, restart on a crash, stop in reverse.

Ours because none of the usual ones does it: honcho ends everything when one process ends, supervisor and circus
start by priority without waiting for readiness, and none knows a program that must finish before others start.
"""

import asyncio
import graphlib
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from holdfast_local.errors import RunnerError
from holdfast_local.processes import failure, kill, spawn, stop, wait_until_ready
from holdfast_local.programs import Probe, Program


class Change(StrEnum):
    STARTED = "started"
    READY = "ready"
    FINISHED = "finished"
    CRASHED = "crashed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change of one program, as it happens."""

    program: str
    change: Change
    pid: int
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """Crash n in a row waits `first * 2**n` seconds, at most `cap`; `reset` seconds of health forgive all crashes."""

    first: float = 0.2  # a single crash should cost little
    cap: float = 10.0  # a program that cannot start must not occupy a core
    reset: float = 30.0

    def delay(self, crashes: int) -> float:
        """Seconds before the start that follows this many earlier crashes (0, 1, …)."""
        return min(self.cap, self.first * 2.0 ** min(crashes, 30))


@dataclass(kw_only=True)
class Entry:
    """A program and its present process. `ready` is cleared when it crashes and set again after its restart."""

    program: Program
    process: Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    restarts: int = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Owns the processes it starts. `on_event` is called in the loop with every change and must not block."""

    def __init__(
        self,
        *,
        on_event: Callable[[Event], None] = lambda _: None,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self._on_event = on_event
        self._policy = policy or RestartPolicy()
        self._clock = clock
        self._sleep = sleep

    async def start(self, programs: Sequence[Program]) -> None:
        """Start all, each as soon as those it comes after are ready (or, if they run once, have finished).

        Raises RunnerError when one fails before it was ever ready; call `stop` then, as after anything else.
        """
        self.entries |= {program.name: Entry(program=program) for program in programs}
        graphlib.TopologicalSorter({e.program.name: e.program.after for e in self.entries.values()}).prepare()
        try:
            async with asyncio.TaskGroup() as group:
                for program in programs:
                    group.create_task(self._start(self.entries[program.name]))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def stop(self) -> None:
        """Stop all, each as soon as those that come after it have ended. Cancelled: everything is killed at once."""
        try:
            async with asyncio.TaskGroup() as group:
                for entry in self.entries.values():
                    group.create_task(self._stop(entry))
        except asyncio.CancelledError:
            await asyncio.gather(*(self._kill(entry) for entry in self.entries.values()))
            raise

    async def _start(self, entry: Entry) -> None:
        for name in entry.program.after:
            await self.entries[name].ready.wait()
        process = await self._launch(entry)
        if entry.program.answers is None:
            await self._finish(entry, process)
        else:
            await self._become_ready(entry, process, entry.program.answers)
            entry.keeper = asyncio.create_task(self._keep(entry, process, entry.program.answers))

    async def _launch(self, entry: Entry) -> Process:
        program = entry.program
        entry.process = await spawn(
            program.command,
            log=program.log,
            env=program.env,
            account=program.account,
            death_signal=program.death_signal,
        )
        self._tell(entry, Change.STARTED)
        return entry.process

    async def _become_ready(self, entry: Entry, process: Process, answers: Probe) -> None:
        program = entry.program
        await wait_until_ready(
            process, answers, name=program.name, log=program.log, deadline_seconds=program.start_seconds
        )
        entry.ready.set()
        self._tell(entry, Change.READY)

    async def _finish(self, entry: Entry, process: Process) -> None:
        code = await process.wait()
        if code != 0:
            raise failure(entry.program.name, f"exited with {code}", entry.program.log)
        entry.ready.set()
        self._tell(entry, Change.FINISHED)

    async def _keep(self, entry: Entry, process: Process, answers: Probe) -> None:
        """Restart the program whenever it exits, until cancelled. Not becoming ready again counts as a crash."""
        crashes = 0
        while True:
            ready_at = self._clock()
            code = await process.wait()
            entry.ready.clear()
            if self._clock() - ready_at >= self._policy.reset:
                crashes = 0
            delay = self._policy.delay(crashes)
            self._tell(entry, Change.CRASHED, f"exit {code}, starts again in {delay:.1f} s")
            crashes += 1
            await self._sleep(delay)
            entry.restarts += 1
            try:
                process = await self._launch(entry)
                await self._become_ready(entry, process, answers)
            except RunnerError:
                await kill(process)

    async def _stop(self, entry: Entry) -> None:
        for other in self.entries.values():
            if entry.program.name in other.program.after:
                await other.stopped.wait()
        if entry.keeper is not None:
            entry.keeper.cancel()
            await asyncio.wait([entry.keeper])
        if entry.process is not None and entry.is_running:
            program = entry.program
            await stop(entry.process, stop_signal=program.stop_signal, deadline_seconds=program.stop_seconds)
            self._tell(entry, Change.STOPPED)
        entry.stopped.set()

    async def _kill(self, entry: Entry) -> None:
        if entry.keeper is not None:
            entry.keeper.cancel()
            await asyncio.wait([entry.keeper])
        if entry.process is not None and entry.is_running:
            await kill(entry.process, entry.program.kill_signal)
            self._tell(entry, Change.STOPPED, "killed")

    def _tell(self, entry: Entry, change: Change, detail: str = "") -> None:
        if entry.process is not None:
            self._on_event(Event(program=entry.program.name, change=change, pid=entry.process.pid, detail=detail))
