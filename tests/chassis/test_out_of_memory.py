"""A process that is out of memory ends, wherever it was when the last of it went: each try is a real process."""

import sys
from pathlib import Path

import pytest
from chassis.config.settings import DatabaseSettings, RedisSettings
from service_process import OrdersInstallation

pytestmark = pytest.mark.timeout(120)

_GREEDY = """#!{python}
import asyncio, os, resource, sys
from contextlib import asynccontextmanager
from chassis.config import load_live
from chassis.app.worker import run_worker
from orders.settings import OrdersSettings

taken = []  # and kept: what comes after the failure has no more memory than what came before

def take(*, leave):
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
    size = 1 << 20
    while size >= leave:
        try:
            taken.append(bytearray(size))
        except MemoryError:
            size //= 2

async def in_a_part(stopping):
    take(leave={leave})
    bytearray(1 << 30)

async def in_a_thread(stopping):
    take(leave={leave})
    await asyncio.to_thread(bytearray, 1 << 30)

async def in_the_drain(stopping):
    await stopping.wait()
    take(leave={leave})

async def at_the_end(stopping):
    import atexit
    atexit.register(lambda: take(leave={leave}))
    await asyncio.to_thread(len, "")
    await stopping.wait()

@asynccontextmanager
async def in_start_up(live, base):
    take(leave={leave})
    yield [[at_the_end]]

@asynccontextmanager
async def parts(live, base):
    if "{when}" in ("in_the_drain", "at_the_end"):
        asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), 15)
    yield [[globals()["{when}"]]]

open_parts = in_start_up if "{when}" == "in_start_up" else parts
run_worker(load_live(OrdersSettings), version="1", open_parts=open_parts)
"""
"""`leave` is the smallest piece that is taken: how much is left for what comes after."""


@pytest.mark.parametrize("leave", [64, 16_384])
@pytest.mark.parametrize("when", ["in_start_up", "in_a_part", "in_a_thread", "in_the_drain", "at_the_end"])
async def test_a_worker_that_is_out_of_memory_ends(
    when: str, leave: int, tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings
) -> None:
    script = tmp_path / "greedy"
    script.write_text(_GREEDY.format(python=sys.executable, when=when, leave=leave))
    script.chmod(0o700)
    worker = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    worker.command = str(script)
    worker.set("jobs__lease", "1")
    worker.set("jobs__loop_limit", "4")
    worker.set("shutdown__drain_timeout", "1")
    ended = await worker.run()
    assert ended.code != 0 or ended.of("worker_stopped"), "it says so when it has not stopped in peace"
