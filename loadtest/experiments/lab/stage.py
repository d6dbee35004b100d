"""Where an experiment runs: a PostgreSQL, a Valkey, and processes of the chassis, all its own and gone at the end."""

import asyncio
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.migrations import upgrade
from holdfast_local.databases import create_database
from holdfast_local.ports import LOOPBACK, free_port, is_taken
from holdfast_local.postgres import EmbeddedPostgres, temporary_postgres
from holdfast_local.processes import kill, spawn, wait_until_ready
from holdfast_local.valkey import EmbeddedValkey
from pydantic import SecretStr

LOADTEST = Path(__file__).parents[2]
_READY_SECONDS = 60.0
"""For a process of Python on a machine that has other things to do."""


@dataclass(kw_only=True)
class Service:
    """A process of the chassis that serves on `port`: SIGKILL is how it ends."""

    port: int
    _command: list[str] = field(repr=False)
    _environment: dict[str, str] = field(repr=False)
    _log: Path = field(repr=False)
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Return once the port is open. Raises RunnerError with the end of its log when that does not happen."""
        self._process = await spawn(self._command, log=self._log, env=self._environment)
        await wait_until_ready(
            self._process, self._is_open, name=self._command[2], log=self._log, deadline_seconds=_READY_SECONDS
        )

    async def kill(self) -> None:
        """SIGKILL to this process, if it runs."""
        if self._process is not None:
            await kill(self._process)

    def freeze(self) -> None:
        """SIGSTOP: what it has in hand stays as it is, until `thaw` or `kill`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _is_open(self) -> bool:
        return is_taken(self.port)


@dataclass(kw_only=True)
class Stage:
    """The servers of one experiment. `folder` is where its processes write their logs."""

    folder: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    _password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    async def database(self, name: str, *statements: str) -> DatabaseSettings:
        """A new database with the tables of the chassis and what else `statements` make."""
        await create_database(
            self.postgres.dsn, name=name, owner=("lab_owner", self._password), runtime=("lab_app", self._password)
        )
        settings = DatabaseSettings(
            host=LOOPBACK,
            port=self.postgres.port,
            name=name,
            user="lab_app",
            password=SecretStr(self._password),
            migration_user="lab_owner",
            migration_password=SecretStr(self._password),
        )
        await upgrade(settings)
        await _execute(self.dsn(settings), statements)
        return settings

    def dsn(self, settings: DatabaseSettings) -> str:
        """The address of its owner, password included: never print it."""
        return f"postgresql://lab_owner:{self._password}@{LOOPBACK}:{self.postgres.port}/{settings.name}"

    @property
    def redis(self) -> RedisSettings:
        parts = urlsplit(self.valkey.dsn)
        return RedisSettings(host=LOOPBACK, port=self.valkey.port, password=SecretStr(parts.password or ""))

    @asynccontextmanager
    async def service(
        self, module: str, name: str, database: DatabaseSettings, **settings: object
    ) -> AsyncIterator[Service]:
        """`python -m experiments.<module>`, told its settings by its environment, until the block ends."""
        port = free_port()
        values = {
            "environment": "test",
            "log__level": "WARNING",
            "telemetry__sample_ratio": 0,
            "http__port": port,
            "management__port": free_port(),
            "database__host": database.host,
            "database__port": database.port,
            "database__name": database.name,
            "database__user": database.user,
            "database__password": self._password,
            "redis__host": LOOPBACK,
            "redis__port": self.valkey.port,
            "redis__password": self.redis.password.get_secret_value() if self.redis.password else "",
            **settings,
        }
        environment = {f"HOLDFAST_{key.upper()}": str(value) for key, value in values.items()}
        service = Service(
            port=port,
            _command=[sys.executable, "-m", f"experiments.{module}"],
            _environment={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(LOADTEST), "NAME": name, **environment},
            _log=self.folder / f"{name}.log",
        )
        try:
            await service.start()
            yield service
        finally:
            await service.kill()


@asynccontextmanager
async def opened_stage(folder: Path) -> AsyncIterator[Stage]:
    """Both servers running."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(temporary_postgres())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-lab-")))
        valkey = EmbeddedValkey(place, port=free_port(), password=secrets.token_hex(16))
        await stack.enter_async_context(valkey)
        yield Stage(folder=folder, postgres=postgres, valkey=valkey)


async def _execute(dsn: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
