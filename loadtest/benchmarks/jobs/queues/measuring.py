"""What is measured of each queue, in the same way, one JSON line:
`python <queue>.py throughput|pick_up|added_cost|added_cost_together|left_open SECONDS`.

The addresses of PostgreSQL and Redis are in the environment, since they hold passwords.
"""

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import uvloop

PICK_UPS = 60
BLOCKS, TRANSACTIONS = 20, 20
SETTLE_SECONDS = 0.02
"""After a block, for what its commits set off: a notification of ours goes out up to 5 ms later."""
BURST = 300
"""The jobs of one burst, of which each slice has many: a worker that has them waiting takes a moment to end them."""
WARM_UP = 0.1
"""The share of jobs or transactions that comes before the clock starts."""


@dataclass
class Arrivals:
    """What the handler of every queue calls: how many jobs came, and when the last one did."""

    wanted: int
    first: int = 0
    seen: int = 0
    began: float = 0.0
    ended: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def arrive(self) -> None:
        self.seen += 1
        if self.seen == self.first:
            self.began = time.perf_counter()
        if self.seen == self.wanted:
            self.ended = time.perf_counter()
            self.done.set()


type Worker = Callable[[Callable[[], None], int], AbstractAsyncContextManager[None]]
"""`worker(handler, concurrency)`: a worker at work, whose jobs each call the handler once."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One queue as it is measured: `enqueue(n)` adds n jobs; `add_in_transaction(with_job)` inserts a row of its own,
    with a job or without, and commits; `add_together` does so with both rows in one statement.
    """

    enqueue: Callable[[int], Awaitable[None]]
    worker: Worker
    add_in_transaction: Callable[[bool], Awaitable[None]] | None = None
    add_together: Callable[[bool], Awaitable[None]] | None = None


async def throughput(queue: Queue, *, jobs: int, concurrency: int) -> float:
    """Jobs per second of one worker that finds `jobs` waiting, once a tenth of them is done."""
    await queue.enqueue(jobs)
    await _analyze()
    arrivals = Arrivals(wanted=jobs, first=round(jobs * WARM_UP))
    async with queue.worker(arrivals.arrive, concurrency):
        async with asyncio.timeout(60):
            await arrivals.done.wait()
    return (arrivals.wanted - arrivals.first) / (arrivals.ended - arrivals.began)


async def _analyze() -> None:
    """Do what autovacuum does within a minute of so many new rows: no user has plans for a table that looks empty."""
    connection = await asyncpg.connect(os.environ["BENCH_POSTGRES"])
    await connection.execute("ANALYZE")
    await connection.close()


async def pick_up(queue: Queue) -> dict[str, float]:
    """Milliseconds from the call that adds a job until its handler runs, in an idle worker: p50 and p99."""
    arrived = asyncio.Event()
    waits: list[float] = []
    async with queue.worker(arrived.set, 20):
        await asyncio.sleep(0.5)
        for _ in range(PICK_UPS):
            arrived.clear()
            called = time.perf_counter()
            await queue.enqueue(1)
            async with asyncio.timeout(10):
                await arrived.wait()
            waits.append((time.perf_counter() - called) * 1000)
            await asyncio.sleep(0.005)
    waits = waits[round(PICK_UPS * WARM_UP) :]
    return {"p50": statistics.median(waits), "p99": statistics.quantiles(waits, n=100)[98]}


async def left_open(queue: Queue, *, seconds: float) -> dict[str, float]:
    """Jobs per second and the median pick-up in milliseconds, in the first and the last tenth of the time for which a
    transaction is left open. Bursts of jobs alternate with single jobs for an idle worker.
    """
    cycles: list[tuple[float, float]] = []
    arrivals = Arrivals(wanted=BURST)

    def arrive() -> None:
        arrivals.arrive()  # of the burst or the single job that is timed now

    holder = await asyncpg.connect(os.environ["BENCH_POSTGRES"])
    async with queue.worker(arrive, 20):
        await queue.enqueue(BURST)
        await arrivals.done.wait()
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await holder.execute("SELECT count(*) FROM pg_class")
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            waits: list[float] = []
            for _ in range(5):
                waits.append(await _timed(queue, arrivals := Arrivals(wanted=1), jobs=1))
                await asyncio.sleep(0.005)
            rate = BURST / await _timed(queue, arrivals := Arrivals(wanted=BURST), jobs=BURST)
            cycles.append((rate, statistics.median(waits) * 1000))
    await holder.close()
    tenth = max(1, len(cycles) // 10)
    return {
        f"{name} {what}": statistics.median(cycle[index] for cycle in chosen)
        for name, chosen in (("first", cycles[:tenth]), ("last", cycles[-tenth:]))
        for index, what in enumerate(("jobs/s", "pick-up, ms"))
    } | {"jobs": float(len(cycles) * (BURST + 5))}


async def _timed(queue: Queue, arrivals: Arrivals, *, jobs: int) -> float:
    """Seconds from the call that adds the jobs until the last one has run."""
    called = time.perf_counter()
    if jobs > 1:
        await queue.enqueue(jobs - 1)
    await queue.enqueue(1)  # alone, since our bulk insert wakes no worker
    async with asyncio.timeout(60):
        await arrivals.done.wait()
    return arrivals.ended - called


async def added_cost(add_in_transaction: Callable[[bool], Awaitable[None]] | None) -> dict[str, float]:
    """Microseconds that a job adds to a transaction that inserts a row: of CPU, this process' and PostgreSQL's, and of
    time. Blocks with a job and blocks without take turns, in one process on one connection; the median of pairs.

    CPU is what is compared. The difference of two times is a tenth of either, and on a machine that does other work it
    says how long the scheduler let other processes go first, once for each turn from one process to the other.
    """
    assert add_in_transaction is not None
    cpu, seconds = defaultdict[bool, list[float]](list), defaultdict[bool, list[float]](list)
    control = await asyncpg.connect(os.environ["BENCH_POSTGRES"])
    for number in range(BLOCKS):
        for with_job in (number % 2 == 0, number % 2 == 1):  # what goes second finds the caches warm: they take turns
            before = await _cpu_microseconds(control)
            for _ in range(TRANSACTIONS):
                started = time.perf_counter()
                await add_in_transaction(with_job)
                seconds[with_job].append(time.perf_counter() - started)
            await asyncio.sleep(SETTLE_SECONDS)
            cpu[with_job].append((await _cpu_microseconds(control) - before) / TRANSACTIONS)
    await control.close()
    pairs = list(zip(cpu[True], cpu[False], strict=True))[round(BLOCKS * WARM_UP) :]
    return {
        "CPU": statistics.median(more - less for more, less in pairs),
        "time": (statistics.median(seconds[True]) - statistics.median(seconds[False])) * 1_000_000,
    }


async def _cpu_microseconds(control: asyncpg.Connection) -> float:
    """What this process and every process of PostgreSQL but that of `control` have used; Linux tells it exactly."""
    pids = await control.fetch("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    return sum(_nanoseconds_of(row["pid"]) for row in pids) / 1000 + time.process_time() * 1_000_000


def _nanoseconds_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def main(opened: Callable[[], AbstractAsyncContextManager[Queue]]) -> None:
    async def measure() -> object:
        async with opened() as queue:
            match sys.argv[1:]:
                case ["throughput", jobs, concurrency]:
                    return await throughput(queue, jobs=int(jobs), concurrency=int(concurrency))
                case ["pick_up"]:
                    return await pick_up(queue)
                case ["left_open", seconds]:
                    return await left_open(queue, seconds=float(seconds))
                case ["added_cost"]:
                    return await added_cost(queue.add_in_transaction)
                case ["added_cost_together"]:
                    return await added_cost(queue.add_together)
                case _:
                    raise SystemExit(__doc__)

    print(json.dumps(uvloop.run(measure())))


def keep_unclosed_quiet() -> None:
    """For the queues on Redis: they cancel their tasks in the middle of a pipeline when they stop, and redis-py reports
    that from a finaliser. Other errors are logged as usual.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        if not str(context["message"]).startswith("Unclosed "):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)


@contextlib.asynccontextmanager
async def in_background(work: Coroutine[object, object, object]) -> AsyncIterator[None]:
    """A worker as a task; cancelled at the end. What it raises before that is raised here."""
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
