"""What a running platform has spent: CPU by program, and what PostgreSQL and Valkey did."""

import asyncio
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import psutil
from holdfast_local.platform import Platform, running_platform
from holdfast_local.ports import LOOPBACK
from holdfast_local.settings import LocalSettings
from redis.asyncio import Redis

_BYTES = re.compile(r"bytes_(?:sent|received):(\d+)")


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by program; committed transactions and statements of all databases, BEGIN and COMMIT included;
    commands to Valkey; bytes in both directions, of each connection to PostgreSQL, and of Valkey.
    """

    cpu: Mapping[str, float]
    transactions: int
    statements: int
    commands: int
    sql_bytes: Mapping[str, int]
    valkey_bytes: int

    @classmethod
    def of(cls, parts: "Sequence[Spent]") -> "Spent":
        """Their sum."""
        cpu = {program: sum(part.cpu[program] for part in parts) for program in parts[0].cpu}
        return cls(
            cpu,
            transactions=sum(part.transactions for part in parts),
            statements=sum(part.statements for part in parts),
            commands=sum(part.commands for part in parts),
            sql_bytes={"all": sum(sum(part.sql_bytes.values()) for part in parts)},
            valkey_bytes=sum(part.valkey_bytes for part in parts),
        )

    def __sub__(self, before: "Spent") -> "Spent":
        cpu = {program: seconds - before.cpu[program] for program, seconds in self.cpu.items()}
        return Spent(
            cpu,
            transactions=self.transactions - before.transactions,
            statements=self.statements - before.statements,
            commands=self.commands - before.commands,
            sql_bytes={which: count - before.sql_bytes.get(which, 0) for which, count in self.sql_bytes.items()},
            valkey_bytes=self.valkey_bytes - before.valkey_bytes,
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
    valkey = await _valkey_stats(platform)
    return Spent(
        cpu,
        transactions=transactions,
        statements=statements,
        commands=valkey["total_commands_processed"],
        sql_bytes=await _sql_bytes(platform),
        valkey_bytes=valkey["total_net_input_bytes"] + valkey["total_net_output_bytes"],
    )


async def _valkey_stats(platform: Platform) -> Mapping[str, int]:
    installation = platform.installation
    password = installation.secrets.valkey_password
    async with Redis(host=LOOPBACK, port=installation.settings.port("valkey"), password=password) as redis:
        stats: Mapping[str, int] = await redis.info("stats")
        return stats


async def _sql_bytes(platform: Platform) -> Mapping[str, int]:
    """By connection to PostgreSQL: the bytes that it has carried, as the kernel counts them. Empty without `ss`."""
    if shutil.which("ss") is None:
        return {}
    port = platform.installation.settings.port("postgres")
    ss = await asyncio.create_subprocess_exec("ss", "-tinHO", f"sport = :{port}", stdout=asyncio.subprocess.PIPE)
    lines = (await ss.communicate())[0].decode().splitlines()
    return {line.split()[4]: sum(int(count) for count in _BYTES.findall(line)) for line in lines if _BYTES.search(line)}


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
