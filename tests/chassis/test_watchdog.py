"""The watchdog of a worker's event loop, in a real process: one that stands still says where, and ends."""

import sys
from pathlib import Path

from chassis.config.settings import DatabaseSettings, RedisSettings
from service_process import OrdersInstallation

_STANDS_STILL = """#!{python}
import os, time
from contextlib import asynccontextmanager
from chassis.config import load_live
from chassis.app.worker import run_worker
from orders.settings import OrdersSettings

async def stand_still(stopping):
    time.sleep(25)
    os._exit(0)  # nobody has ended it

@asynccontextmanager
async def open_parts(live, base):
    yield [[stand_still]]

run_worker(load_live(OrdersSettings), version="1", open_parts=open_parts)
"""


async def test_a_worker_whose_loop_stands_still_says_where_and_ends(
    tmp_path: Path, database_settings: DatabaseSettings, redis_settings: RedisSettings
) -> None:
    script = tmp_path / "standing"
    script.write_text(_STANDS_STILL.format(python=sys.executable))
    script.chmod(0o700)
    worker = OrdersInstallation.create(tmp_path, database_settings, redis_settings)
    worker.command = str(script)
    worker.set("jobs__lease", "1")
    worker.set("jobs__loop_limit", "2")
    ended = await worker.run()
    assert ended.code == 1
    assert "Timeout (0:00:02)" in ended.stderr
    assert "in stand_still" in ended.stderr
