"""A database as it is at one moment: a read-only session, in one snapshot."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from oracle.sources import NoVerdict

CONNECT_SECONDS = 5.0
READ_SECONDS = 300.0  # one statement over a whole table of a million orders, on a machine that has other things to do


@asynccontextmanager
async def snapshot(dsn: str, service: str, *, application_name: str = "oracle") -> AsyncIterator[asyncpg.Connection]:
    """A connection to the service's database whose statements all see the same moment, and can change nothing.

    Raises `NoVerdict` when the database cannot be read; its message holds no secret.
    """
    settings = {"default_transaction_read_only": "on", "application_name": application_name}
    with unreadable(service):
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_SECONDS, command_timeout=READ_SECONDS, server_settings=settings
        )
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close(timeout=CONNECT_SECONDS)


@contextmanager
def unreadable(service: str) -> Iterator[None]:
    """Raises `NoVerdict` for whatever goes wrong between us and the service's database."""
    try:
        yield
    except (ValueError, asyncpg.InterfaceError):  # its message may hold a part of the password
        raise NoVerdict(f"cannot read the database of {service}: its DSN is not understood") from None
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise NoVerdict(f"cannot read the database of {service}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Why something could not be read, in a few words."""
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return f"{type(error).__name__}: {error}".removesuffix(": ")
