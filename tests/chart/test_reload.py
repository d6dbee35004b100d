"""The dev image's entry point, with a small program in place of a service."""

import asyncio
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from waiting import eventually

RELOAD = Path(__file__).parents[2] / "services" / "reload.py"
SERVICE = """
import signal, sys
sys.path.insert(0, {sources!r})
import source
def stop(*_):
    print("stopped", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print(sys.argv[1], source.TEXT, flush=True)
if sys.argv[1] == "migrate":
    sys.exit(3)
signal.pause()
"""

type Start = Callable[[str], Awaitable["Running"]]


class Running:
    """The entry point's process; `lines` is what it and the service have written so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._readers = [asyncio.create_task(self._read(stream)) for stream in (process.stdout, process.stderr)]

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream
        async for line in stream:
            self.lines.append(line.decode().rstrip())

    async def wrote(self, line: str) -> None:
        async def is_there() -> bool:
            return line in self.lines

        await eventually(is_there)

    async def ended(self) -> int:
        await asyncio.gather(*self._readers)
        return await self.process.wait()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The service's one source, beside the entry point as in the image."""
    (tmp_path / "services" / "chassis").mkdir(parents=True)
    shutil.copy(RELOAD, tmp_path / "services")
    path = tmp_path / "services" / "chassis" / "source.py"
    path.write_text("TEXT = 'first'")
    return path


@pytest.fixture
async def start(source: Path, tmp_path: Path) -> AsyncIterator[Start]:
    service = tmp_path / "service"
    service.write_text(f"#!{sys.executable}\n{SERVICE.format(sources=str(source.parent))}")
    service.chmod(0o755)
    started: list[Running] = []

    async def start(command: str) -> Running:
        process = await asyncio.create_subprocess_exec(
            sys.executable, tmp_path / "services" / "reload.py", service, command, stdout=PIPE, stderr=PIPE
        )
        started.append(Running(process))
        return started[-1]

    yield start
    for running in started:
        if running.process.returncode is None:
            running.process.terminate()
        await running.ended()


def put(path: Path, text: str) -> None:
    path.write_text(text)


async def test_a_changed_source_starts_the_service_anew(start: Start, source: Path) -> None:
    running = await start("api")
    await running.wrote("api first")
    put(source, "TEXT = 'second'")
    await running.wrote("api second")
    assert running.lines == ["api first", f"reload: {source} changed: restarting", "stopped", "api second"]


async def test_a_new_statement_file_is_a_change_and_any_other_file_is_not(start: Start, source: Path) -> None:
    running = await start("worker")
    await running.wrote("worker first")
    put(source.with_name("notes.txt"), "")
    put(source.with_suffix(".sql"), "SELECT 1")
    await running.wrote(f"reload: {source.with_suffix('.sql')} changed: restarting")
    assert not any("notes" in line for line in running.lines)


async def test_a_broken_source_is_waited_for(start: Start, source: Path) -> None:
    running = await start("api")
    await running.wrote("api first")
    put(source, "TEXT = ")
    await running.wrote("reload: ended with 1: starting again in 5 s, or at a change")
    put(source, "TEXT = 'mended'")
    await running.wrote("api mended")


async def test_sigterm_stops_the_service_first(start: Start) -> None:
    running = await start("api")
    await running.wrote("api first")
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended() == 0
    assert running.lines == ["api first", "stopped"]


async def test_sigterm_during_a_restart_leaves_no_service_behind(start: Start, source: Path) -> None:
    """A service that was left would hold the other end of what `ended` reads."""
    running = await start("api")
    await running.wrote("api first")
    put(source, "TEXT = 'second'")
    await running.wrote("stopped")
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended() == 0


async def test_a_command_that_ends_takes_its_place(start: Start) -> None:
    running = await start("migrate")
    assert await running.ended() == 3
    assert running.lines == ["migrate first"]
