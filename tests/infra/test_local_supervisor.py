"""The bare-machine runner's supervisor, over small stand-in programs."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from holdfast_local.errors import RunnerError
from holdfast_local.programs import Program
from holdfast_local.supervisor import Change, Event, RestartPolicy, Supervisor

STAYS = "import pathlib, signal, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"
FINISHES = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
FAILS = "import sys; sys.exit('the reason is in the log')"


class Recorded:
    """What a supervisor told, and its waits between restarts, which take no time here."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.delays: list[float] = []

    def note(self, event: Event) -> None:
        self.events.append(event)

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)

    def order_of(self, change: Change) -> list[str]:
        return [event.program for event in self.events if event.change is change]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def supervisor(recorded: Recorded) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(
        on_event=recorded.note, sleep=recorded.sleep, policy=RestartPolicy(first=1, cap=5, reset=3600)
    )
    yield supervisor
    await supervisor.stop()


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Program]:
    def build(name: str, script: str = STAYS, *, after: tuple[str, ...] = (), **options: object) -> Program:
        mark = tmp_path / f"{name}.ready"

        async def answers() -> bool:
            return mark.exists()

        return Program(
            name=name,
            command=[sys.executable, "-c", script, mark],
            log=tmp_path / f"{name}.log",
            after=frozenset(after),
            answers=None if script in {FINISHES, FAILS} else answers,
            **options,
        )

    return build


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  another process sets no event of ours
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_a_program_starts_only_when_those_before_it_are_ready_or_have_finished(supervisor, recorded, program):
    await supervisor.start(
        [program("api", after=("migrate",)), program("migrate", FINISHES, after=("server",)), program("server")]
    )
    told = [(event.program, event.change) for event in recorded.events]
    assert told == [
        ("server", Change.STARTED),
        ("server", Change.READY),
        ("migrate", Change.STARTED),
        ("migrate", Change.FINISHED),
        ("api", Change.STARTED),
        ("api", Change.READY),
    ]


async def test_programs_stop_in_reverse_order_and_nothing_is_left(supervisor, recorded, program):
    await supervisor.start([program("server"), program("api", after=("server",)), program("front", after=("api",))])
    pids = [event.pid for event in recorded.events]
    await supervisor.stop()
    assert recorded.order_of(Change.STOPPED) == ["front", "api", "server"]
    assert not any(is_alive(pid) for pid in pids)


async def test_a_crashed_program_is_started_again_after_waits_that_double_up_to_the_cap(supervisor, recorded, program):
    await supervisor.start([program("worker")])
    entry = supervisor.entries["worker"]
    for restart in range(1, 6):
        entry.ready.clear()
        entry.process.kill()
        await asyncio.wait_for(entry.ready.wait(), 10)
        assert entry.restarts == restart
    assert recorded.delays == [1, 2, 4, 5, 5]
    assert len({event.pid for event in recorded.events if event.change is Change.READY}) == 6


async def test_a_program_that_was_healthy_long_enough_is_forgiven_its_crashes(recorded, program):
    now = 0.0
    supervisor = Supervisor(sleep=recorded.sleep, clock=lambda: now, policy=RestartPolicy(first=1, cap=60, reset=30))
    await supervisor.start([program("worker")])
    entry = supervisor.entries["worker"]
    for healthy_seconds in (1, 1, 31):
        now += healthy_seconds
        entry.ready.clear()
        entry.process.kill()
        await asyncio.wait_for(entry.ready.wait(), 10)
    await supervisor.stop()
    assert recorded.delays == [1, 2, 1]


async def test_a_program_that_ignores_sigterm_is_killed_at_its_deadline(supervisor, program):
    await supervisor.start([program("deaf", DEAF, stop_seconds=0.1)])
    process = supervisor.entries["deaf"].process
    await supervisor.stop()
    assert process.returncode == -signal.SIGKILL


async def test_cancelling_the_stop_kills_at_once(supervisor, program):
    await supervisor.start(
        [program("deaf", DEAF, stop_seconds=3600), program("front", DEAF, after=("deaf",), stop_seconds=3600)]
    )
    processes = [entry.process for entry in supervisor.entries.values()]
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


async def test_a_failed_start_shows_the_end_of_the_log_and_starts_nothing_that_comes_after(
    supervisor, recorded, program
):
    with pytest.raises(RunnerError, match=r"migrate exited with 1.*(?s:.*)the reason is in the log"):
        await supervisor.start([program("migrate", FAILS), program("api", after=("migrate",))])
    assert "api" not in recorded.order_of(Change.STARTED)


async def test_a_program_that_never_becomes_ready_fails_the_start(supervisor, program):
    silent = program("silent", "import signal; signal.pause()", start_seconds=0.2)
    with pytest.raises(RunnerError, match="silent was not ready within"):
        await supervisor.start([silent])


async def test_cancelling_the_start_leaves_nothing_after_stop(supervisor, recorded, program):
    starting = asyncio.create_task(
        supervisor.start([program("server"), program("slow", "import signal; signal.pause()", after=("server",))])
    )
    await until(lambda: "slow" in recorded.order_of(Change.STARTED))
    starting.cancel()
    await asyncio.wait([starting])
    await supervisor.stop()
    assert not any(is_alive(event.pid) for event in recorded.events)


async def test_children_die_with_a_runner_that_is_killed(tmp_path):
    script = f"""
import asyncio, sys
from pathlib import Path
from holdfast_local.processes import spawn
async def main():
    command = [sys.executable, "-c", {DEAF!r}, {str(tmp_path / "mark")!r}]
    child = await spawn(command, log=Path({str(tmp_path / "log")!r}))
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    runner = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    child = int(await runner.stdout.readline())
    await until((tmp_path / "mark").exists)
    runner.kill()
    await runner.wait()
    await until(lambda: not is_alive(child))


async def test_a_child_has_a_session_of_its_own_so_that_ctrl_c_reaches_the_runner_alone(supervisor, program):
    await supervisor.start([program("server")])
    pid = supervisor.entries["server"].process.pid
    assert os.getsid(pid) == pid
