"""Processes of the comparison: callers, the called server, and services as users run them, over a PostgreSQL (durable)
and a Valkey of their own. All on loopback, in a temporary folder, gone at the end.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_local.databases import create_database
from holdfast_local.placement import passable_folder
from holdfast_local.ports import LOOPBACK, free_port, is_taken
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.valkey import EmbeddedValkey

HERE = Path(__file__).parent
_COMMANDS = Path(sys.executable).parent
_READY_SECONDS = 60.0


class BenchError(Exception):
    """The comparison cannot be made; the message says why."""


@asynccontextmanager
async def answering() -> AsyncIterator[int]:
    """The port of a server that answers 200 at once."""
    async with _process(sys.executable, HERE / "answering.py", stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(await process.stdout.readline())


async def run(*command: str | Path, environment: Mapping[str, str] | None = None, given: bytes = b"") -> str:
    """The last line of what it prints; raises BenchError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_inherited() | (environment or {}),
    )
    output, errors = await process.communicate(given)
    if process.returncode:
        raise BenchError(f"{command[-1]} ended with code {process.returncode}: {errors.decode()[-2000:]}")
    return output.decode().strip().rpartition("\n")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service whose database is migrated; `environment` are its settings."""

    command: Path
    http_port: int
    dsn: str = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)

    @asynccontextmanager
    async def running(self, role: str) -> AsyncIterator[None]:
        """Its process, once it listens; what it writes is read and thrown away."""
        port = self.http_port if role == "api" else int(self.environment["HOLDFAST_MANAGEMENT__PORT"])
        async with _process(
            self.command, role, environment=self.environment, stdout=asyncio.subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            reader = asyncio.create_task(_throw_away(process.stdout))
            async with asyncio.timeout(_READY_SECONDS):
                while not is_taken(port):
                    if process.returncode is not None:
                        raise BenchError(f"{self.command.name} {role} ended with code {process.returncode}")
                    await asyncio.sleep(0.05)
            yield
        await reader


@dataclass(frozen=True, slots=True)
class Servers:
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    password: str = field(repr=False)

    async def install(self, service: str, **settings: object) -> Service:
        """The service with its database, for production; `settings` go over the others."""
        name, role = service.replace("-", "_"), f"{service.replace('-', '_')}_app"
        await create_database(
            self.postgres.dsn, name=name, owner=(f"{name}_owner", self.password), runtime=(role, self.password)
        )
        port = free_port()
        variables = {
            "environment": "prod",
            "log__format": "json",
            "http__port": port,
            "management__port": free_port(),
            "database__port": self.postgres.port,
            "database__name": name,
            "database__user": role,
            "database__password": self.password,
            "database__migration_user": f"{name}_owner",
            "database__migration_password": self.password,
            "redis__port": self.valkey.port,
            "redis__password": self.password,
            "auth__peppers": f'["{secrets.token_hex(32)}"]',
            **settings,
        }
        environment = {f"HOLDFAST_{name.upper()}": str(value) for name, value in variables.items()}
        command = _COMMANDS / service
        await run(command, "migrate", environment=environment)
        dsn = f"postgresql://{role}:{self.password}@{LOOPBACK}:{self.postgres.port}/{name}"
        return Service(command=command, http_port=port, dsn=dsn, environment=environment)


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    password = secrets.token_hex(32)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(passable_folder(prefix="holdfast-bench-"))
        postgres = EmbeddedPostgres(folder / "postgres", port=free_port(), password=password)
        stack.callback(postgres.remove)
        await stack.enter_async_context(postgres)
        valkey = await stack.enter_async_context(EmbeddedValkey(folder / "valkey", port=free_port(), password=password))
        yield Servers(postgres, valkey, password)


@asynccontextmanager
async def _process(
    *command: str | Path, environment: Mapping[str, str] | None = None, stdout: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, stdout=stdout, env=_inherited() | (environment or {}))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}


async def _throw_away(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
