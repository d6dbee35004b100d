"""What a whole order costs, from its POST to its last mail: `make bench-order`.

A platform of its own (the bare-machine runner, durable PostgreSQL, default settings but for the limits) gets a burst of
orders. Each order is charged, confirmed and mailed twice. The table has the CPU of each process per order, the
transactions per order, and the orders per second to the last mail. There is no limit yet: the figures are the baseline
that later changes are compared with. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import asyncpg
import psutil
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.errors import RunnerError
from holdfast_local.platform import Platform, running_platform
from holdfast_local.secrets import SERVICES

ORDER = {
    "lines": [{"product_id": "rope", "quantity": 2}, {"product_id": "cleat", "quantity": 1}],
    "customer_email": "ada@example.com",
    "payment_method": "pm_card_ok",
}
MAILS = 2
"""Per order: one for `order.placed`, one for `order.confirmed`."""
WARM_UP_ORDERS = 50  # every process has then prepared its statements and opened its connections
AT_ONCE = 16  # requests of the burst that are under way together
PATIENCE_SECONDS = 300.0
IDLE_SECONDS = 5.0
_POLL_SECONDS = 0.5  # of one small count; more often would be part of what is measured
_UNLIMITED = {"rate_limit.rate_per_second": 10_000, "rate_limit.burst": 10_000}


class BenchError(Exception):
    """The measurement cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Since the start of each process: CPU seconds by program, and committed transactions of the four databases."""

    cpu: Mapping[str, float]
    transactions: int


async def main(orders: int) -> None:
    overrides = {f"{service}-{role}": _UNLIMITED for service in SERVICES for role in ("api", "worker")}
    with passing_settings() as passing:
        settings = passing.model_copy(update={"postgres_durable": True})
        async with running_platform(settings, overrides=overrides) as platform:
            before = await spent(platform)
            await asyncio.sleep(IDLE_SECONDS)
            idle = sum(difference(await spent(platform), before).cpu.values()) / IDLE_SECONDS
            await burst(platform, WARM_UP_ORDERS, mails_before=0)
            before = await spent(platform)
            started = time.monotonic()
            await burst(platform, orders, mails_before=WARM_UP_ORDERS * MAILS)
            seconds = time.monotonic() - started
            found = difference(await spent(platform), before)
    report(found, orders=orders, seconds=seconds, idle=idle)


async def burst(platform: Platform, orders: int, *, mails_before: int) -> None:
    """Place so many orders, `AT_ONCE` at a time, and return when the last of their mails was sent."""
    url = platform.installation.url("orders") + "/v1/orders"
    key = (platform.installation.secrets.of("clients") / "acme").read_text("utf-8").strip()
    numbers = iter(range(orders))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as client:

        async def place() -> None:
            for number in numbers:
                idempotency_key = {"Idempotency-Key": f"{mails_before}-{number}"}
                async with client.post(url, json=ORDER, headers=idempotency_key) as answer:
                    if answer.status != HTTPStatus.CREATED:
                        raise BenchError(f"an order was answered {answer.status}: {await answer.text()}")

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(place())
    await _until_sent(platform, mails_before + orders * MAILS)


async def _until_sent(platform: Platform, mails: int) -> None:
    connection = await asyncpg.connect(platform.installation.database_dsn("notifications"))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (sent := await connection.fetchval("SELECT count(*) FROM mail WHERE status = 'sent'")) < mails:
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise BenchError(f"{sent} of {mails} mails were sent after {PATIENCE_SECONDS:.0f} s") from None
    finally:
        await connection.close()


async def spent(platform: Platform) -> Spent:
    programs = [entry.program.name for entry in platform.supervisor.entries.values() if entry.program.answers]
    connection = await asyncpg.connect(platform.installation.postgres.dsn)
    try:
        transactions = await connection.fetchval("SELECT sum(xact_commit)::int FROM pg_stat_database")
    finally:
        await connection.close()
    return Spent({program: _cpu_seconds(platform.pid(program)) for program in programs}, transactions)


def _cpu_seconds(pid: int) -> float:
    """Of a process, its children, and those of its children that have ended: PostgreSQL's backends."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    ended = own.children_user + own.children_system
    children = [child.cpu_times() for child in process.children(recursive=True)]
    return own.user + own.system + ended + sum(times.user + times.system for times in children)


def difference(after: Spent, before: Spent) -> Spent:
    cpu = {program: after.cpu[program] - before.cpu[program] for program in after.cpu}
    return Spent(cpu, after.transactions - before.transactions)


def report(found: Spent, *, orders: int, seconds: float, idle: float) -> None:
    milliseconds = {program: cpu / orders * 1000 for program, cpu in found.cpu.items()}
    total = sum(milliseconds.values())
    for program, each in sorted(milliseconds.items(), key=lambda item: -item[1]):
        print(f"{program:22} {each:7.1f} ms")
    print(f"{'an order':22} {total:7.1f} ms of CPU, {found.transactions / orders:.1f} transactions")
    print(f"{'to the last mail':22} {orders / seconds:7.1f} orders/s ({orders} in {seconds:.1f} s)")
    print(f"{'with nothing to do':22} {idle:7.2f} of a core")
    result = {
        "bench": "order",
        "cpu_ms": round(total, 1),
        "transactions": round(found.transactions / orders, 1),
        "orders_per_second": round(orders / seconds, 1),
        "idle_cores": round(idle, 3),
    }
    print(json.dumps(result), flush=True)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A whole order, in CPU by process.")
    parser.add_argument("--orders", type=int, default=1000)
    return parser.parse_args(given)


if __name__ == "__main__":
    try:
        asyncio.run(main(_arguments(sys.argv[1:]).orders))
    except (BenchError, RunnerError) as error:
        sys.exit(f"bench-order: {error}")
