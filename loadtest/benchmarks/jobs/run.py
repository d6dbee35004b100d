"""Job queues side by side: `make bench-jobs`. Interleaved, five rounds, the median of each figure; on a machine that
does other work as many of them as end within `BUDGET_SECONDS`, and the table says how many.

Every measurement is a process of its own on a fresh database of one PostgreSQL with fsync on; the Redis queues have a
Valkey, emptied before each. The last line is JSON; the exit code is 1 when a ratio misses its limit.

`--left-open SECONDS` measures something else: the queues on PostgreSQL while a transaction is left open for so long.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import time
import tomllib
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from holdfast_local.placement import passable_folder
from holdfast_local.ports import free_port
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.valkey import temporary_valkey
from redis.asyncio import Redis

HERE = Path(__file__).parent
OWN, RIVAL = "holdfast", "pgqueuer"
ENQUEUE = "holdfast, enqueue"
JOBS = {OWN: 10_000, RIVAL: 10_000, "procrastinate": 200, "saq": 400, "taskiq": 1_000}
"""The same number for the two that are compared: what a job costs depends on how many wait, and on how many went before
it. As many as the others do in a third of a second on two cores.
"""
ADDED = {
    OWN: ("holdfast_queue.py", "added_cost_together"),
    ENQUEUE: ("holdfast_queue.py", "added_cost"),
    RIVAL: ("pgqueuer_queue.py", "added_cost"),
    "procrastinate": ("procrastinate_queue.py", "added_cost"),
}
"""The script and the figure of each queue whose jobs are added in a transaction. pgqueuer adds its job on the driver's
connection. We insert the row and its job together, as orders does; `enqueue`, a statement of its own, has its own line.
"""
LEFT_OPEN = (OWN, RIVAL, "procrastinate")
CONCURRENCIES = (20, 100)
ROUNDS = 5
BUDGET_SECONDS = 270
"""For all rounds; one takes half a minute on two quiet cores."""
LIMIT_SECONDS = 60
GATES = tomllib.loads((HERE.parent / "gates.toml").read_text("utf-8"))["jobs"]

type Figures = dict[tuple[str, str], list[float]]
"""(queue, what) → one figure a round."""


@dataclass(frozen=True, slots=True)
class Servers:
    postgres: EmbeddedPostgres
    redis_dsn: str

    async def measure(
        self, script: str, *arguments: str, own: bool, flushes: bool = True, limit: float = LIMIT_SECONDS
    ) -> object:
        """What the script prints last, run by the project's Python or by that of the other queues. Without `flushes` a
        commit does not wait for the disk. The run fails if the script takes longer than `limit` seconds.
        """
        database = f"bench_{secrets.token_hex(4)}"
        redis: Redis = Redis.from_url(self.redis_dsn)
        await redis.flushall()
        await redis.aclose()
        admin = await asyncpg.connect(self.postgres.dsn)
        await admin.execute(f"CREATE DATABASE {database}")
        if not flushes:
            await admin.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
        process = await asyncio.create_subprocess_exec(
            sys.executable if own else HERE / ".venv" / "bin" / "python",
            HERE / "queues" / script,
            *arguments,
            stdout=PIPE,
            env={
                "PATH": os.environ["PATH"],
                "BENCH_POSTGRES": f"{self.postgres.dsn.rpartition('/')[0]}/{database}",
                "BENCH_REDIS": self.redis_dsn,
            },
        )
        try:
            async with asyncio.timeout(limit):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
            await admin.close()
        if process.returncode != 0:
            raise SystemExit(f"{script} {' '.join(arguments)} ended with {process.returncode}")
        return json.loads(output.splitlines()[-1])


async def measure_rounds(servers: Servers, figures: Figures) -> int:
    """`ROUNDS`, or fewer: none is begun that would not end in time if it took as long as those before it."""
    started = time.monotonic()
    for number in range(1, ROUNDS + 1):
        await measure_round(servers, figures)
        elapsed = time.monotonic() - started
        print(f"round {number} of {ROUNDS}, {elapsed:.0f} s", file=sys.stderr)
        if elapsed * (number + 1) / number > BUDGET_SECONDS:
            break
    return number


async def measure_round(servers: Servers, figures: Figures) -> None:
    """Each figure of each queue once; the queues take turns."""
    for concurrency in CONCURRENCIES:
        for queue, jobs in JOBS.items():
            found = await servers.measure(
                f"{queue}_queue.py", "throughput", str(jobs), str(concurrency), own=queue == OWN
            )
            assert isinstance(found, float)
            figures[queue, f"jobs/s at {concurrency}"].append(found)
    for queue in JOBS:
        waits = await servers.measure(f"{queue}_queue.py", "pick_up", own=queue == OWN)
        assert isinstance(waits, dict)
        for name, milliseconds in waits.items():
            figures[queue, f"pick-up {name}, ms"].append(milliseconds)
    for queue, (script, what) in ADDED.items():
        # The disk is waited for once a transaction, with a job or without; its moods are ten times the difference.
        added = await servers.measure(script, what, own=queue.startswith(OWN), flushes=False)
        assert isinstance(added, dict)
        for name, microseconds in added.items():
            figures[queue, f"added {name}, µs"].append(microseconds)
    found = await servers.measure("holdfast_relay.py", own=True)
    assert isinstance(found, float)
    figures[OWN, "events relayed/s"].append(found)


async def measure_left_open(servers: Servers, seconds: float) -> dict[str, dict[str, float]]:
    """Each queue on PostgreSQL, one after the other, each in a database with a transaction that is left open."""
    found: dict[str, dict[str, float]] = {}
    for queue in LEFT_OPEN:
        figures = await servers.measure(
            f"{queue}_queue.py", "left_open", f"{seconds}", own=queue == OWN, limit=seconds + LIMIT_SECONDS
        )
        assert isinstance(figures, dict)
        found[queue] = figures | {
            "slowdown": figures["first jobs/s"] / figures["last jobs/s"],
            "pick-up ratio": figures["last pick-up, ms"] / figures["first pick-up, ms"],
        }
        print(f"{queue}, {seconds:g} s", file=sys.stderr)
    return found


def ratios_of(figures: Figures) -> dict[str, float]:
    """Own ÷ pgqueuer, the median of the rounds, each of which measures one right after the other: processed as the
    geometric mean over both concurrencies, and the CPU that a job adds to a transaction: `added_cost` says why.
    """

    def ratio(what: str, own: str = OWN) -> float:
        pairs = zip(figures[own, what], figures[RIVAL, what], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    return {
        "processed_vs_pgqueuer": round(statistics.geometric_mean(ratio(what) for what in _throughputs()), 2),
        "added_cost_vs_pgqueuer": round(ratio("added CPU, µs"), 2),
        "added_cost_of_enqueue_vs_pgqueuer": round(ratio("added CPU, µs", ENQUEUE), 2),
    }


def _throughputs() -> Sequence[str]:
    return [f"jobs/s at {concurrency}" for concurrency in CONCURRENCIES]


def print_table(medians: Mapping[tuple[str, str], float]) -> None:
    columns = list(dict.fromkeys(what for _, what in medians))
    print("queue".ljust(20) + "".join(column.rjust(18) for column in columns))
    for queue in [name for name in dict.fromkeys([*ADDED, *JOBS]) if any(name == of for of, _ in medians)]:
        cells = [f"{medians[queue, column]:,.1f}" if (queue, column) in medians else "" for column in columns]
        print(queue.ljust(20) + "".join(cell.rjust(18) for cell in cells))


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--left-open", type=float, metavar="SECONDS")
    left_open: float | None = parser.parse_args().left_open
    figures: Figures = defaultdict(list)
    with passable_folder(prefix="holdfast-bench-") as folder:
        postgres = EmbeddedPostgres(folder / "postgres", port=free_port(), password=secrets.token_hex(16))
        async with postgres, temporary_valkey() as redis:
            if left_open is not None:
                return report_left_open(await measure_left_open(Servers(postgres, redis.dsn), left_open))
            rounds = await measure_rounds(Servers(postgres, redis.dsn), figures)
    medians = {key: statistics.median(found) for key, found in figures.items()}
    ratios = ratios_of(figures)
    print(f"medians of {rounds} rounds")
    print_table(medians)
    print(json.dumps({"bench": "jobs", "ratios": ratios}))
    is_enough = ratios["processed_vs_pgqueuer"] >= GATES["processed_at_least"]
    is_cheap = ratios["added_cost_vs_pgqueuer"] <= GATES["added_cost_at_most"]
    return 0 if is_enough and is_cheap else 1


def report_left_open(found: Mapping[str, Mapping[str, float]]) -> int:
    print_table({(queue, what): value for queue, figures in found.items() for what, value in figures.items()})
    own, limit = found[OWN], GATES["left_open_at_most"]
    ratios = {name: round(own[name], 2) for name in ("slowdown", "pick-up ratio")}
    print(json.dumps({"bench": "jobs, a transaction left open", "ratios": ratios}))
    return 0 if max(ratios.values()) <= limit else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
