"""Whoever reads stdout may stall or go away: the process goes on, counts what it drops, writes the rest at its end."""

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from captured_logs import captured_logs
from chassis.config.settings import DatabaseSettings, LogSettings, RedisSettings
from chassis.logging import get_logger
from chassis.logging.repeats import Repeats
from chassis.logging.writer import LineWriter
from prometheus_client import REGISTRY
from service_process import CALLER, OrdersInstallation
from waiting import eventually

LINE = b"x" * 99 + b"\n"


class Pipe:
    """A reader that can stall and go away."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.error: OSError | None = None
        self.has_written = threading.Event()
        self.is_stalled = threading.Event()
        self.flows = threading.Event()
        self.flows.set()

    def stall(self) -> None:
        self.flows.clear()

    def write(self, data: bytes) -> None:
        if not self.flows.is_set():
            self.is_stalled.set()
        assert self.flows.wait(10)
        if self.error is not None:
            raise self.error
        self.written.append(data)
        self.has_written.set()


class Stage:
    def __init__(self, *, lines: int) -> None:
        self.pipe = Pipe()
        self.recovered: list[int] = []
        self.writer = LineWriter(self.pipe.write, max_bytes=lines * len(LINE), on_recovered=self.recovered.append)

    def stall(self) -> None:
        """Return once the thread hangs in a write, with one line."""
        self.pipe.stall()
        self.writer.put(LINE, "info")
        assert self.pipe.is_stalled.wait(10)


def dropped(level: str) -> float:
    return REGISTRY.get_sample_value("log_events_dropped_total", {"level": level}) or 0


def test_lines_are_written_in_the_order_in_which_they_came() -> None:
    stage = Stage(lines=1000)
    lines = [f"{n}\n".encode() for n in range(500)]
    for line in lines:
        stage.writer.put(line, "info")
    assert stage.writer.flush(10)
    assert b"".join(stage.pipe.written) == b"".join(lines)
    stage.writer.close(1)


def test_lines_that_come_soon_after_one_another_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is woken for each takes the interpreter from the event loop each time."""
    monkeypatch.setattr("chassis.logging.writer._COALESCE_SECONDS", 60)
    stage = Stage(lines=1000)
    for _ in range(3):
        stage.writer.put(LINE, "info")
        assert not stage.pipe.has_written.wait(0.05)
    assert stage.writer.flush(10)  # whoever waits for them does not wait for more
    assert stage.pipe.written == [3 * LINE]
    stage.writer.close(1)


def test_a_single_line_is_written_though_no_other_one_comes() -> None:
    stage = Stage(lines=10)
    stage.writer.put(LINE, "info")
    assert stage.pipe.has_written.wait(10)
    stage.writer.close(1)


def test_as_much_as_a_pipe_holds_is_written_without_waiting_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.logging.writer._COALESCE_SECONDS", 60)
    stage = Stage(lines=10_000)
    for _ in range(65_536 // len(LINE) + 1):
        stage.writer.put(LINE, "info")
    assert stage.pipe.has_written.wait(10)
    stage.writer.close(10)


def test_a_stalled_reader_costs_the_writer_nothing_and_what_finds_no_room_is_counted() -> None:
    stage = Stage(lines=10)
    stage.stall()
    before = dropped("info")
    for _ in range(100):  # one that waited for the reader would wait until the end of this test
        stage.writer.put(LINE, "info")
    # Nine tenths of the queue; one line of it is in the thread's hands.
    assert dropped("info") - before == 100 - 8
    stage.pipe.flows.set()
    assert stage.writer.flush(10)
    assert len(b"".join(stage.pipe.written)) == 9 * len(LINE)
    stage.writer.close(1)
    assert stage.recovered == [92]


def test_an_error_finds_room_when_lesser_lines_do_not() -> None:
    stage = Stage(lines=10)
    stage.stall()
    for _ in range(20):
        stage.writer.put(LINE, "info")
    before = dropped("error")
    stage.writer.put(b"lost money\n", "error")
    assert dropped("error") == before
    stage.pipe.flows.set()
    stage.writer.close(10)
    assert b"".join(stage.pipe.written).endswith(b"lost money\n")


def test_an_error_that_finds_no_room_either_is_counted_as_such() -> None:
    stage = Stage(lines=10)
    stage.stall()
    before = dropped("error")
    for _ in range(20):
        stage.writer.put(LINE, "error")
    assert dropped("error") - before == 20 - 9
    stage.pipe.flows.set()
    stage.writer.close(10)


def test_a_reader_that_goes_away_costs_its_lines_and_nothing_else() -> None:
    stage = Stage(lines=10)
    stage.pipe.error = BrokenPipeError()
    before = dropped("warning")
    stage.writer.put(LINE, "warning")
    assert stage.writer.flush(10)
    assert dropped("warning") - before == 1
    stage.pipe.error = None
    stage.writer.put(LINE, "warning")
    assert stage.writer.flush(10)
    assert stage.pipe.written == [LINE]
    stage.writer.close(1)
    assert stage.recovered == [1]


def test_closing_does_not_wait_for_a_stalled_reader_for_long() -> None:
    stage = Stage(lines=10)
    stage.stall()
    stage.writer.close(0.05)  # the reader comes back only after it
    assert not stage.pipe.written
    stage.pipe.flows.set()


def test_lines_lost_are_told_of_once_the_reader_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    with captured_logs(LogSettings(queue_bytes=65_536)) as logs:
        plain = logs.stdout.buffer.write
        is_stalled = threading.Event()

        def stalling(data: bytes) -> int:
            is_stalled.set()
            assert release.wait(10)
            return plain(data)

        monkeypatch.setattr("chassis.logging.pipeline._pipeline.writer._write", stalling)
        log = get_logger(__name__)
        log.info("first")
        assert is_stalled.wait(10)
        for _ in range(1000):
            log.info("further", text="x" * 100)
        release.set()
        line = logs.one("log_events_dropped")
        assert line["level"] == "warning"
        assert line["events"] == 1000 - len(logs.of("further"))


BLOCKED = """
import sys
from chassis.logging import configure_logging, get_logger
from chassis.config.settings import LogSettings
configure_logging(LogSettings(queue_bytes=65_536), service="blocked")
for n in range(5000):
    get_logger("loop").info("turned", n=n, text="x" * 100)
sys.stderr.write("done\\n")
"""


def test_a_process_whose_stdout_nobody_reads_goes_on_and_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(120) == 0


def test_a_process_that_ends_writes_what_waits_first() -> None:
    command = [sys.executable, "-c", BLOCKED.replace("65_536", "4_194_304")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline()  # its work is done, and most lines still wait
        assert process.stdout.read().count(b'"event":"turned"') == 5000
        assert process.wait(30) == 0


PLAIN = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
for n in range(5000):
    logging.info("turned %d %s", n, "x" * 100)
"""


def test_plain_logging_stops_with_its_reader() -> None:
    """The version that goes wrong."""
    with subprocess.Popen([sys.executable, "-c", PLAIN], stdout=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert process.stdout is not None
        assert process.stdout.read().count(b"turned") == 5000  # once it is read, it goes on
        assert process.wait(30) == 0


async def test_a_service_whose_log_nobody_reads_answers_counts_and_stops(
    tmp_path: Path,
    fresh_database: Callable[[str], DatabaseSettings],
    redis_settings: RedisSettings,
) -> None:
    orders = OrdersInstallation.create(tmp_path, await fresh_database("orders"), redis_settings)
    orders.set("log__queue_bytes", "65536")
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)  # the smallest there is, so that fewer requests fill it
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("orders"),
        "api",
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")} | orders.variables,
        stdout=write_end,
    )
    os.close(write_end)
    try:
        async with httpx.AsyncClient() as client:

            async def is_up() -> bool:
                try:
                    return (await client.get(f"{orders.management_url}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            async def drops() -> bool:
                # Refused for its path, or for how many there were: a line in the log, and nothing else to do.
                answers = await asyncio.gather(*(client.get(f"{orders.url}/none", headers=CALLER) for _ in range(20)))
                assert {answer.status_code for answer in answers} <= {404, 429}
                metrics = (await client.get(f"{orders.management_url}/metrics")).text
                found = re.search(r'^log_events_dropped_total{level="info"} ([0-9.e+]+)$', metrics, re.MULTILINE)
                return found is not None and float(found[1]) > 0

            await eventually(is_up, seconds=40)
            await eventually(drops, seconds=30)
            assert (await client.get(f"{orders.url}/v1/products", headers=CALLER)).status_code == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        os.close(read_end)
        if process.returncode is None:
            process.kill()
            await process.wait()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_warning_that_repeats_is_written_a_few_times_and_the_next_one_tells_of_the_rest() -> None:
    clock = Clock()
    repeats = Repeats(limit=2, window=10, clock=clock)
    assert [repeats.admit(("a", "x")) for _ in range(5)] == [0, 0, None, None, None]
    assert repeats.admit(("b", "x")) == 0
    assert repeats.admit(("a", "y")) == 0
    clock.now += 9.9
    assert repeats.admit(("a", "x")) is None
    clock.now += 0.1
    assert [repeats.admit(("a", "x")) for _ in range(3)] == [4, 0, None]
    assert repeats.pending() == {("a", "x"): 1}
    assert repeats.pending() == {}


def test_names_without_end_do_not_fill_the_memory() -> None:
    repeats = Repeats(limit=1, window=10, clock=Clock())
    for n in range(5000):
        repeats.admit(("library", f"message {n}"))
    assert len(repeats._windows) == 1000


def test_only_warnings_are_held_back_and_never_a_canonical_line() -> None:
    def suppressed() -> float:
        return REGISTRY.get_sample_value("log_events_suppressed_total", {"level": "warning"}) or 0

    before = suppressed()
    with captured_logs(LogSettings(level="DEBUG", repeats=2, repeats_window=60)) as logs:
        log = get_logger(__name__)
        for _ in range(5):
            log.debug("looked")
            log.info("placed")
            log.warning("recovered")
            log.error("lost")
            log.warning("job_finished")
        counts = {event: len(logs.of(event)) for event in ("looked", "placed", "recovered", "lost", "job_finished")}
    assert counts == {"looked": 5, "placed": 5, "recovered": 2, "lost": 5, "job_finished": 5}
    assert suppressed() - before == 3


async def test_the_next_line_written_says_how_many_were_suppressed() -> None:
    with captured_logs(LogSettings(repeats=1, repeats_window=0.5)) as logs:
        log = get_logger(__name__)
        for _ in range(4):
            log.warning("recovered")

        async def another_is_written() -> bool:
            log.warning("recovered")
            return len(logs.of("recovered")) == 2

        await eventually(another_is_written)
        first, second = logs.of("recovered")
    assert "suppressed" not in first
    assert second["suppressed"] >= 3


def test_what_was_suppressed_last_is_told_when_the_process_ends() -> None:
    script = """
from chassis.logging import configure_logging, get_logger
from chassis.config.settings import LogSettings
configure_logging(LogSettings(repeats=1), service="ending")
for _ in range(4):
    get_logger("shop").warning("recovered")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=30)
    first, last = ended.stdout.splitlines()
    assert '"event":"recovered"' in first
    assert '"event":"repeats_suppressed"' in last
    assert '"source":"shop","repeated":"recovered","suppressed":3' in last


def test_of_many_warnings_each_is_told_when_the_process_ends() -> None:
    with captured_logs(LogSettings(repeats=1)) as logs:
        for n in range(5):
            for _ in range(3):
                get_logger("shop").warning(f"recovered_{n}")
    told = [line for line in logs.text.splitlines() if '"event":"repeats_suppressed"' in line]
    assert [line.partition('"suppressed":')[2][:1] for line in told] == ["2"] * 5


async def test_a_process_killed_by_a_second_signal_writes_what_waits_first(
    tmp_path: Path, fresh_database: Callable[[str], DatabaseSettings], redis_settings: RedisSettings
) -> None:
    orders = OrdersInstallation.create(tmp_path, await fresh_database("orders"), redis_settings)
    orders.set("shutdown__readiness_delay", "20")
    orders.set("shutdown__drain_timeout", "1")
    async with orders.running("api") as process, httpx.AsyncClient() as client:

        async def is_draining() -> bool:
            return (await client.get(f"{orders.management_url}/readyz")).status_code == 503

        process.terminate()
        await eventually(is_draining)
        process.terminate()
        ended = await process.end()
    assert ended.code == 1
    assert ended.lines[-1]["event"] == "process_killed"
