"""How long the oracle takes over many orders, and how much memory: `python loadtest/benchmarks/oracle --orders 100000`.

The databases and the simulators run, no service does. Synthetic orders are written straight into the databases and the
simulators' files: each is confirmed, charged, mailed twice and delivered twice to a webhook endpoint. Then the oracle's
command judges them. A million orders need some 10 GB of disk. `--program` measures another oracle. The last line is one
JSON object.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from holdfast_local.audit import configuration
from holdfast_local.chaos_settings import passing_settings
from holdfast_local.platform import Platform, running_platform
from statements import CUSTOMER_ENDPOINT, MAILBOX, PROVIDER, STATEMENTS

MOST = 1_000_000
WAIT_SECONDS = 3600  # for the verdict; whatever takes longer has none
_AT_ONCE = 50_000


async def main(orders: int, program: Path) -> int:
    """The oracle's exit code."""
    with passing_settings() as settings:
        async with running_platform(settings, wanted=lambda program: not program.management) as platform:
            began = time.monotonic()
            await write(platform, orders)
            print(f"{orders:,} orders written in {time.monotonic() - began:.0f} s", flush=True)
            return await asyncio.to_thread(judge, platform, program, orders)


async def write(platform: Platform, orders: int) -> None:
    began = datetime.now(UTC) - timedelta(hours=1)
    installation = platform.installation
    customer = f"{installation.url('customer_endpoint')}/webhooks/synthetic"
    for service, statements in STATEMENTS.items():
        connection = await asyncpg.connect(installation.database_dsn(service), command_timeout=WAIT_SECONDS)
        for statement in statements:
            for first in range(1, orders + 1, _AT_ONCE):
                last = min(first + _AT_ONCE - 1, orders)
                await connection.execute(statement.format(first=first, last=last, began=began, customer=customer))
        await connection.close()
    state = installation.settings.state
    for file, statements in (
        ("payment-provider", PROVIDER),
        ("mailbox", MAILBOX),
        ("customer-endpoint", CUSTOMER_ENDPOINT),
    ):
        await asyncio.to_thread(write_file, state / f"{file}.sqlite", statements, orders, began)


def write_file(file: Path, statements: Iterable[str], orders: int, began: datetime) -> None:
    with closing(sqlite3.connect(file, timeout=60)) as database:
        for statement in statements:
            with database:
                database.executemany(statement, rows(orders, began))


def rows(orders: int, began: datetime) -> Iterator[dict[str, str]]:
    """For each order, what the simulators' files say of it."""
    for n in range(1, orders + 1):
        at = began + timedelta(milliseconds=n)
        yield {
            "n": f"{n:07x}",
            "email": f"{n}@example.org",
            "at": at.isoformat(timespec="milliseconds"),
            "stamp": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
        }


def judge(platform: Platform, program: Path, orders: int) -> int:
    command = [program, "--config", "-", "--wait", str(WAIT_SECONDS)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)  # noqa: S603  our own
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(configuration(platform.installation))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, megabytes = time.monotonic() - began, usage.ru_maxrss / 1024
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{seconds:.0f} s, {cpu:.0f} s of CPU, {megabytes:.0f} MB at most")
    print(json.dumps({"orders": orders, "seconds": round(seconds, 1), "cpu": round(cpu, 1), "mb": round(megabytes)}))
    return process.returncode


def _number(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"1 to {MOST}")
    return number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=_number, default=100_000)
    parser.add_argument("--program", type=Path, default=Path(sys.executable).with_name("oracle"))
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.orders, options.program)))
