"""Ctrl-C at any moment, and whatever else ends a process: it ends in its time, without a traceback."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.process.server import ServeError, Server
from holdfast_local.ports import free_port
from service_process import OrdersInstallation
from starlette.applications import Starlette
from waiting import eventually

pytestmark = pytest.mark.timeout(120)

STARTING_SECONDS = 1.5
"""Longer than a start takes on a quiet machine: some of the moments below are after it."""


async def takes_signals(pid: int) -> bool:
    """Whether it says what SIGTERM does, which is the first thing that our own code does."""
    status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("command", ["api", "worker"])
async def test_ctrl_c_while_a_process_starts_ends_it_without_a_traceback(
    command: str, times: int, tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings
) -> None:
    orders = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    moments = random.Random(times)
    for _ in range(3):
        process = await orders._start(command)
        assert process.pid
        await eventually(lambda pid=process.pid: takes_signals(pid))  # type: ignore[misc]
        await asyncio.sleep(moments.random() * STARTING_SECONDS)  # any moment is the right one
        for _ in range(times):
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            _, stderr = await process.communicate()
        assert b"Traceback" not in stderr
        assert process.returncode in {0, 1, 128 + signal.SIGINT}


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_ctrl_c_ends_a_process_in_order(
    command: str, tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings
) -> None:
    orders = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    async with orders.running(command) as running:
        running.process.send_signal(signal.SIGINT)
        ended = await running.end()
    assert ended.code == 0
    assert ended.stderr == ""
    assert ended.lines[-1]["event"] == ("process_stopped" if command == "api" else "worker_stopped")


def ended(script: str) -> tuple[int, dict[str, object]]:
    """The exit code of a process that runs `main(ending)`, and the last line of its log."""
    source = _PROCESS.format(main=script)
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in found.stderr
    return found.returncode, json.loads(found.stdout.splitlines()[-1])


_PROCESS = """
import asyncio, atexit, os, signal, threading, time
from chassis.process import ending as module
from chassis.process.ending import Ending
from chassis.logging import configure_logging
from chassis.process.running import new_event_loop
from chassis.config.settings import LogSettings

module.EXIT_SECONDS = 0.2
configure_logging(LogSettings(format="json"), service="test")
ending = Ending()

{main}

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    try:
        runner.run(main())
    finally:
        ending.leave()
"""


def test_a_signal_before_the_process_takes_work_ends_it_at_once() -> None:
    code, line = ended("async def main():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(20)")
    assert (code, line["event"], line["signal"]) == (128 + signal.SIGTERM, "process_interrupted", "SIGTERM")


def test_a_second_signal_ends_a_process_whose_loop_is_blocked() -> None:
    code, line = ended(
        "async def main():\n"
        "    ending.stop_signal(seconds=60, left=lambda: {'requests': 2})\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(20)"
    )
    assert (code, line["reason"], line["requests"]) == (1, "second signal while draining", 2)


def test_a_part_that_fails_leaves_the_others_the_time_of_a_drain() -> None:
    code, line = ended(
        "async def main():\n"
        "    stopping = ending.stop_signal(seconds=0.2, left=lambda: {'left': ['part-b']})\n"
        "    stopping.begin()\n"
        "    await asyncio.Event().wait()"
    )
    assert (code, line["reason"], line["left"]) == (1, "not done 0.2 s after it began to stop", ["part-b"])


@pytest.mark.parametrize(
    "main",
    [
        "async def main():\n    asyncio.ensure_future(asyncio.to_thread(time.sleep, 20))\n    await asyncio.sleep(0)",
        "async def main():\n    threading.Thread(target=time.sleep, args=[20]).start()",
        "async def main():\n    atexit.register(time.sleep, 20)",
    ],
    ids=["the default executor", "a thread that is no daemon", "atexit"],
)
def test_nothing_holds_a_process_that_has_closed_everything(main: str) -> None:
    code, line = ended(main)
    assert (code, line["event"], line["reason"]) == (1, "process_killed", "not gone 0.2 s after it had closed")


async def test_a_server_that_ends_by_itself_stops_its_process_in_order_and_is_its_failure() -> None:
    class Failing(Server):
        async def on_tick(self, counter: int) -> bool:
            if counter:
                raise MemoryError
            return False

    class Leaving(Server):
        async def on_tick(self, counter: int) -> bool:
            return counter > 0

    async def serve(kind: type[Server]) -> None:
        stopping = asyncio.Event()
        server = kind(Starlette(), host="127.0.0.1", port=free_port(), drain_timeout=1)
        async with server.running(stopping):
            await asyncio.wait_for(stopping.wait(), 10)

    with pytest.raises(MemoryError):
        await serve(Failing)
    with pytest.raises(ServeError, match="ended by itself"):
        await serve(Leaving)


_BROKEN_SCHEDULE = """#!{python}
import asyncio, os, signal
from contextlib import asynccontextmanager
from chassis.config import load_live
from chassis.jobs.schedules import Schedule, runs
from chassis.app.worker import run_worker
from orders.settings import OrdersSettings

async def fail(session):
    raise ZeroDivisionError

async def watch(stopping):
    while runs.labels("broken", "failed")._value.get() < 5:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await stopping.wait()

@asynccontextmanager
async def open_parts(live, base):
    yield [[base.scheduler([Schedule(name="broken", every=0.05, run=fail)]), watch]]

run_worker(load_live(OrdersSettings), version="1", open_parts=open_parts)
"""


async def test_a_bug_in_a_schedule_ends_no_worker(
    tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings
) -> None:
    script = tmp_path / "broken"
    script.write_text(_BROKEN_SCHEDULE.format(python=sys.executable))
    script.chmod(0o700)
    worker = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    worker.command = str(script)
    ended = await worker.run()
    assert ended.code == 0
    assert ended.lines[-1]["event"] == "worker_stopped"
    assert "ZeroDivisionError" in ended.of("schedule_failed")[0]["exception"]
