"""What all simulators do as a process: bind, open a file, speak in JSON lines, stop on a signal."""

import asyncio
import json
import logging
import signal
import socket
import sqlite3
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

SHUTDOWN_SECONDS = 1
"""How long running requests may still take after SIGTERM; a request held by a fault never ends by itself."""


def timestamp(*, skew_seconds: float = 0) -> str:
    """The time as RFC 3339 in UTC with milliseconds, moved by `skew_seconds`."""
    return (datetime.now(UTC) + timedelta(seconds=skew_seconds)).isoformat(timespec="milliseconds")


def log(event: str, **fields: object) -> None:
    """Write one JSON line to stdout; newlines inside values stay escaped.

    A line that stdout does not take (a full disk, a reader that is gone) is lost: what it reports has happened already.
    """
    with suppress(OSError):
        print(json.dumps({"time": timestamp(), "event": event, **fields}, default=str), flush=True)


class JsonLines(logging.Handler):
    """Sends what the libraries log to the same stream, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            return  # a request that a fault held, ended by our own shutdown
        fields = {"exception": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
        log("library_logged", level=record.levelname, logger=record.name, text=record.getMessage(), **fields)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. A port that is taken ends the process with one line.

    The host `*` is every address of the machine, of IPv4 and of IPv6 where it has that.
    """
    is_dual = host == "*" and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual or ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only where it is: else each answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_dual:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(("" if host == "*" else host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}")
    return listener


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """The file with its tables, made when missing, for our account alone. What was committed survives a kill."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)  # SQLite gives the files beside it the same mode
        database = sqlite3.connect(path)
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(schema)
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"cannot use the database {path}: {error}")
    return database


class Connection(H11Protocol):
    """Uvicorn's, except that a request may reach its connection, as `request.state.connection`, and close it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a TCP connection's always is
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": transport}


class Server(uvicorn.Server):
    """Uvicorn, except that SIGTERM ends the process with 0 where uvicorn would raise the signal again."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True


def exit_quietly_on_signals() -> None:
    """For the moments before the server listens: a signal then is a normal end too."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT."""
    logging.basicConfig(handlers=[JsonLines()], level=logging.WARNING)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    asyncio.run(Server(config).serve(sockets=[listener]))
