"""What the chassis costs: three endpoints of orders as users run it, against the same three as a bare application.

An order is read twice: from orders' cache, where the bare application has none and asks PostgreSQL, and past it, where
both ask PostgreSQL the same.

    make bench-http

Rounds are interleaved; a figure is the median of all rounds, and a ratio that of the rounds' ratios. CPU per request is
the steadiest, and the gate: exit code 1 when a ratio (bare ÷ ours) is below its threshold. The last line is one JSON
object.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path

import aiohttp
import asyncpg
from prometheus_client.parser import text_string_to_metric_families
from servers import BenchError, Server, Stage, running_servers

GATES = tomllib.loads((Path(__file__).parents[1] / "gates.toml").read_text("utf-8"))["http"]
"""By kind of request: the least that bare CPU per request ÷ ours may be."""

CONNECTIONS = 16
ROUNDS = 5
WARM_UP_SECONDS = 1.0
CACHED = 100  # orders are read again and again, once each before a slice begins: all of it then finds them cached


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one slice of load, or the medians of several."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    requests: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Of one endpoint: each round's figures, ours and the bare application's, measured one right after the other."""

    ours: list[Figures] = field(default_factory=list)
    bare: list[Figures] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of bare CPU to ours: the median of the rounds' ratios, since a neighbour's busy minute falls on both."""
        pairs = zip(self.ours, self.bare, strict=True)
        return statistics.median(bare.cpu_us / ours.cpu_us for ours, bare in pairs)


def median(of: Sequence[Figures]) -> Figures:
    return Figures(
        **{name: statistics.median(getattr(one, name) for one in of) for name in Figures.__dataclass_fields__}
    )


async def measure(server: Server, *, kind: str, seconds: float, key: str, ids: Sequence[str]) -> Figures:
    """One slice of load from a process of its own; raises BenchError on any answer but the wanted one."""
    load = {"port": server.port, "kind": kind, "seconds": seconds, "connections": CONNECTIONS, "key": key, "ids": ids}
    spent = server.cpu_seconds()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("client.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(json.dumps(load).encode())
    spent = server.cpu_seconds() - spent
    if process.returncode:
        raise BenchError(f"{kind} on port {server.port}: {errors.decode().strip().splitlines()[-1]}")
    found = json.loads(output)
    return Figures(
        per_second=found["requests"] / found["seconds"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        cpu_us=spent / found["requests"] * 1_000_000,
        requests=found["requests"],
    )


async def compare(stage: Stage, kinds: Sequence[str], *, rounds: int, seconds: float) -> dict[str, Comparison]:
    """Ours and the bare application's figures by endpoint."""
    ids: dict[str, Sequence[str]] = {"product": await _ids(stage, "product"), "place": []}
    orders = await _ids(stage, "orders")
    unread = batched(orders, len(orders) // (rounds + 1), strict=False)
    found = {kind: Comparison() for kind in kinds}
    for round_ in range(rounds + 1):
        new = next(unread)
        ids["order_cached"], ids["order_uncached"] = new[:CACHED], new[CACHED:]
        for kind in kinds:
            await _forget_jobs(stage)
            # The second one finds a warmer machine: take turns.
            both = (stage.orders, found[kind].ours), (stage.bare, found[kind].bare)
            for server, rounds_of_it in both[:: 1 if round_ % 2 else -1]:
                if kind == "order_cached":
                    once = ids["order_cached"]
                    await measure(server, kind="order_uncached", seconds=seconds, key=stage.key, ids=once)
                figures = await measure(
                    server, kind=kind, seconds=seconds if round_ else WARM_UP_SECONDS, key=stage.key, ids=ids[kind]
                )
                if round_:
                    rounds_of_it.append(figures)
    return found


async def _ids(stage: Stage, table: str) -> list[str]:
    connection = await asyncpg.connect(stage.dsn)
    try:
        return [str(row["id"]) for row in await connection.fetch(f"SELECT id FROM {table} ORDER BY id")]  # noqa: S608
    finally:
        await connection.close()


async def _forget_jobs(stage: Stage) -> None:
    """As workers would: orders refuses work when too much of it waits."""
    connection = await asyncpg.connect(stage.dsn)
    try:
        await connection.execute("DELETE FROM job")
    finally:
        await connection.close()


async def check_paths(stage: Stage, found: Mapping[str, Comparison]) -> None:
    """Raise BenchError unless orders' own metrics say that the requests went the ways that the table names.

    Redis decides every request, since a local decision would be cheaper than a user's; and what is read from the cache
    is found there.
    """
    url = f"http://127.0.0.1:{stage.management_port}/metrics"
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    samples = [sample for family in families for sample in family.samples]
    decided = [sample for sample in samples if sample.name == "rate_limit_decisions_total"]
    local = sum(sample.value for sample in decided if sample.labels["backend"] != "redis")
    if local or not decided:
        raise BenchError(f"{local:.0f} requests were not decided in Redis: the machine is too busy to measure on")
    read = {"cache": "orders:order", "result": "hit"}
    hits = sum(sample.value for sample in samples if sample.name == "cache_requests_total" and sample.labels == read)
    cached = sum(one.requests for one in found["order_cached"].ours) if "order_cached" in found else 0
    if hits < cached:
        raise BenchError(f"{cached:.0f} reads should have found their orders in the cache, and {hits:.0f} did")


def table(found: Mapping[str, Comparison]) -> str:
    rows = [f"{'':14} {'':5} {'requests/s':>10} {'p50 ms':>7} {'p99 ms':>7} {'CPU µs':>7} {'ratio':>6}"]
    for kind, comparison in found.items():
        ours, bare = median(comparison.ours), median(comparison.bare)
        for name, one, ratio in (("ours", ours, f"{comparison.ratio:.2f}"), ("bare", bare, "")):
            label = kind if one is ours else ""
            rows.append(
                f"{label:14} {name:5} {one.per_second:10,.0f} {one.p50_ms:7.1f} {one.p99_ms:7.1f}"
                f" {one.cpu_us:7.0f} {ratio:>6}"
            )
    return "\n".join(rows)


async def print_layers(stage: Stage) -> None:
    """Let `layers.py` say what each layer costs; its log lines are read and thrown away."""
    script = Path(__file__).with_name("layers.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        env={**os.environ, **stage.environment, "BENCH_KEY": stage.key},
        stdout=asyncio.subprocess.PIPE,
    )
    await process.communicate()
    if process.returncode:
        raise BenchError(f"layers.py ended with code {process.returncode}")


async def main(arguments: argparse.Namespace) -> int:
    async with running_servers() as stage:
        if arguments.layers:
            await print_layers(stage)
            return 0
        found = await compare(stage, arguments.only or [*GATES], rounds=arguments.rounds, seconds=arguments.seconds)
        await check_paths(stage, found)
    ratios = {kind: round(comparison.ratio, 3) for kind, comparison in found.items()}
    print(table(found))
    missed = [f"{kind} {ratio} < {GATES[kind]}" for kind, ratio in ratios.items() if ratio < GATES[kind]]
    if missed:
        print(f"too slow: {', '.join(missed)}", file=sys.stderr)
    print(json.dumps({"bench": "http", "ratios": ratios}), flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Orders against a bare application, in CPU per request.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each slice")
    parser.add_argument("--only", action="append", choices=[*GATES], help="this endpoint; may be repeated")
    parser.add_argument("--layers", action="store_true", help="what each layer costs, instead")
    try:
        sys.exit(asyncio.run(main(parser.parse_args())))
    except BenchError as error:
        sys.exit(f"bench-http: {error}")
