"""A service's command as a real process: started on free ports, watched, stopped."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from api_keys import PEPPER, caller, key_of
from chassis.config.settings import DatabaseSettings, RedisSettings
from holdfast_local.ports import free_port, is_taken
from waiting import eventually

KEY = key_of("acme")
CALLER = caller("acme")

_COMMANDS = Path(sys.executable).parent


def database_variables(settings: DatabaseSettings) -> dict[str, str]:
    """The environment of a process of the tests' own that needs a database and nothing else."""
    return {
        "PATH": os.environ["PATH"],
        "HOLDFAST_DATABASE__HOST": settings.host,
        "HOLDFAST_DATABASE__PORT": str(settings.port),
        "HOLDFAST_DATABASE__NAME": settings.name,
        "HOLDFAST_DATABASE__USER": settings.user,
        "HOLDFAST_DATABASE__PASSWORD": settings.password.get_secret_value(),
    }


@dataclass(kw_only=True)
class OrdersInstallation:
    """What `orders` needs to run, in a folder; `variables` is its environment and may be changed before it starts."""

    folder: Path
    command: str = "orders"
    variables: dict[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    management_port: int = field(default_factory=free_port)

    @classmethod
    def create(cls, folder: Path, database: DatabaseSettings, redis: RedisSettings) -> "OrdersInstallation":
        installation = cls.bare(folder, database, redis)
        installation.secret("payments__token_secret", "t" * 64)
        installation.secret("auth__peppers", json.dumps([PEPPER]))
        installation.set("payments__base_url", f"http://127.0.0.1:{free_port()}")
        return installation

    @classmethod
    def bare(
        cls, folder: Path, database: DatabaseSettings, redis: RedisSettings, *, command: str = "orders"
    ) -> "OrdersInstallation":
        """What every service needs, and no more."""
        installation = cls(folder=folder, command=command)
        installation.secret("database__password", database.password.get_secret_value())
        if redis.password:
            installation.secret("redis__password", redis.password.get_secret_value())
        settings = {
            "database__host": database.host,
            "database__port": database.port,
            "database__name": database.name,
            "database__user": database.user,
            "database__held_calls": "refuse",
            "redis__host": redis.host,
            "redis__port": redis.port,
            "redis__prefix": redis.prefix,
            "redis__timeout": 1,  # no test of the limiter: a busy machine may take its time
            "http__port": installation.http_port,
            "management__port": installation.management_port,
            "environment": "test",
        }
        for name, value in settings.items():
            installation.set(name, str(value))
        return installation

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}"

    def set(self, name: str, value: str) -> None:
        self.variables[f"HOLDFAST_{name.upper()}"] = value

    def secret(self, name: str, value: str) -> None:
        folder = self.folder / "secrets"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value)
        self.variables["HOLDFAST_SECRETS_DIR"] = str(folder)

    async def run(self, *arguments: str, stdin: str = "") -> "Ended":
        """The command, until it ends by itself."""
        process = await self._start(*arguments)
        try:
            async with asyncio.timeout(30):
                stdout, stderr = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode is not None
        return Ended(process.returncode, stdout.decode(), stderr.decode())

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator["Running"]:
        """The command, once it is ready; killed at the end if it still runs."""
        process = await self._start(*arguments)
        running = Running(process)
        try:
            async with httpx.AsyncClient() as client:  # one for all looks: making it takes 20 ms
                await eventually(lambda: self._is_ready(client, process), seconds=180)
            yield running
        finally:
            if process.returncode is None:
                process.kill()
            await running.end()

    async def _is_ready(self, client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> bool:
        assert process.returncode is None, "it ended while it started"
        if not is_taken(self.management_port):  # much cheaper than asking in vain, while it wants the processor
            return False
        try:
            return (await client.get(f"{self.management_url}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        return await asyncio.create_subprocess_exec(
            _COMMANDS / self.command,
            *arguments,
            cwd=self.folder,
            env=inherited | self.variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log. Fails on any line that is not JSON, such as a bare traceback."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


class Running:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._output = asyncio.create_task(process.communicate())

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def end(self) -> Ended:
        """What it wrote, once it has ended."""
        async with asyncio.timeout(30):
            stdout, stderr = await asyncio.shield(self._output)
        assert self.process.returncode is not None
        return Ended(self.process.returncode, stdout.decode(), stderr.decode())
