"""What a running platform has spent: CPU by program, and what PostgreSQL and Valkey did."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import psutil
from holdfast_local.platform import Platform, running_platform
from holdfast_local.ports import LOOPBACK
from holdfast_local.settings import LocalSettings
from redis.asyncio import Redis


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by program; committed transactions and statements of all databases, BEGIN and COMMIT included;
    commands to Valkey.
    """

    cpu: Mapping[str, float]
    transactions: int
    statements: int
    commands: int

    @classmethod
    def of(cls, parts: "Sequence[Spent]") -> "Spent":
        """Their sum."""
        cpu = {program: sum(part.cpu[program] for part in parts) for program in parts[0].cpu}
        return cls(
            cpu,
            transactions=sum(part.transactions for part in parts),
            statements=sum(part.statements for part in parts),
            commands=sum(part.commands for part in parts),
        )

    def __sub__(self, before: "Spent") -> "Spent":
        cpu = {program: seconds - before.cpu[program] for program, seconds in self.cpu.items()}
        return Spent(
            cpu,
            transactions=self.transactions - before.transactions,
            statements=self.statements - before.statements,
            commands=self.commands - before.commands,
        )


async def count_statements(settings: LocalSettings) -> None:
    """Have the PostgreSQL of these settings count its statements from its next start on."""
    async with running_platform(settings, wanted=lambda _: False) as platform:
        connection = await asyncpg.connect(platform.installation.postgres.dsn)
        try:
            await connection.execute("CREATE EXTENSION pg_stat_statements")
            await connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        finally:
            await connection.close()


async def spent(platform: Platform) -> Spent:
    """Since the start of each process. PostgreSQL publishes its counts with up to a second's delay; that is awaited."""
    await asyncio.sleep(1)
    programs = [entry.program.name for entry in platform.supervisor.entries.values() if entry.program.answers]
    connection = await asyncpg.connect(platform.installation.postgres.dsn)
    try:
        transactions = await connection.fetchval("SELECT sum(xact_commit)::int FROM pg_stat_database")
        statements = await connection.fetchval("SELECT sum(calls)::int FROM pg_stat_statements")
    finally:
        await connection.close()
    cpu = {program: _cpu_seconds(platform.pid(program)) for program in programs}
    return Spent(cpu, transactions=transactions, statements=statements, commands=await _commands(platform))


async def _commands(platform: Platform) -> int:
    installation = platform.installation
    password = installation.secrets.valkey_password
    async with Redis(host=LOOPBACK, port=installation.settings.port("valkey"), password=password) as redis:
        return int((await redis.info("stats"))["total_commands_processed"])


def _cpu_seconds(pid: int) -> float:
    """Of a process, its children, and those of its children that have ended: PostgreSQL's backends."""
    process = psutil.Process(pid)
    while True:
        own = process.cpu_times()
        ended = own.children_user + own.children_system
        children = process.children(recursive=True)
        with suppress(psutil.NoSuchProcess):  # a backend that ends meanwhile counts in `ended` the next time
            return own.user + own.system + ended + sum(_own_seconds(child) for child in children)


def _own_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
