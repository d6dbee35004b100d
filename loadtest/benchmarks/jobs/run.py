"""Job queues side by side on this machine: `make bench-jobs`."""

import asyncio
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from holdfast_local.placement import passable_folder
from holdfast_local.ports import free_port
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.valkey import temporary_valkey

HERE = Path(__file__).parent
OWN = "holdfast"
QUEUES = {"holdfast": 20000, "pgqueuer": 8000, "procrastinate": 400, "saq": 2500, "taskiq": 2500}


async def measure(server, redis, queue, *arguments):
    name = f"bench_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    python = sys.executable if queue == OWN else HERE / ".venv/bin/python"
    p = await asyncio.create_subprocess_exec(
        python, HERE / "queues" / f"{queue}_queue.py", *map(str, arguments),
        env={**os.environ, "BENCH_POSTGRES": server.dsn.rsplit("/", 1)[0] + f"/{name}", "BENCH_REDIS": redis.dsn},
        stdout=asyncio.subprocess.PIPE)
    out, _ = await p.communicate()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
    return json.loads(out.splitlines()[-1])


async def main():
    with passable_folder(prefix="holdfast-bench-") as folder:
        server = EmbeddedPostgres(folder / "postgres", port=free_port(), password=secrets.token_hex(16))
        async with server, temporary_valkey() as redis:
            for q in sys.argv[1].split(","):
                for what in sys.argv[2:]:
                    s = time.time()
                    args = (what, ) if not what.isdigit() else ("throughput", QUEUES[q], what)
                    print(q, what, await measure(server, redis, q, *args), round(time.time()-s, 1), flush=True)
asyncio.run(main())
