"""Where the tests' PostgreSQL and Valkey come from: `HOLDFAST_TEST_BACKEND`.

`embedded`, the default, starts the programs that came with `uv sync`; `testcontainers` starts the images that compose
and the chart run, and needs a Docker engine. Tests of the bare-machine runner start the runner's own servers under
either: how those start, stop, crash and keep others out is what they test.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from chassis.config.settings import DatabaseSettings
from holdfast_local.postgres import temporary_postgres
from holdfast_local.valkey import temporary_valkey

VARIABLE = "HOLDFAST_TEST_BACKEND"
_DEFAULT = "embedded"


@dataclass(frozen=True, slots=True)
class RealServer:
    """What a test may know of a PostgreSQL or a Valkey: its address, as its administrator."""

    dsn: str = field(repr=False)


type FreshDatabase = Callable[[str], Awaitable[DatabaseSettings]]
"""Makes a database with the tables of the chassis (`""`) or of a service's package."""

type Start = Callable[[], AbstractAsyncContextManager[RealServer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Each starts a server that is empty, does not wait for a disk, and is gone at the end."""

    postgres: Start
    valkey: Start


class UnknownBackend(Exception):
    """The message names the variable and what it may be."""


def choose(environment: Mapping[str, str]) -> Backend:
    """Raises UnknownBackend when the variable names none."""
    name = environment.get(VARIABLE) or _DEFAULT
    if name not in _BACKENDS:
        raise UnknownBackend(f"{VARIABLE}={name}: there is no such back end; there are {', '.join(_BACKENDS)}")
    return _BACKENDS[name]()


def _embedded() -> Backend:
    return Backend(postgres=_embedded_postgres, valkey=_embedded_valkey)


def _testcontainers() -> Backend:
    import containers  # Docker's client takes a third of a second to import

    return Backend(postgres=containers.postgres, valkey=containers.valkey)


_BACKENDS: Mapping[str, Callable[[], Backend]] = {"embedded": _embedded, "testcontainers": _testcontainers}


@asynccontextmanager
async def _embedded_postgres() -> AsyncIterator[RealServer]:
    async with temporary_postgres() as server:
        yield RealServer(server.dsn)


@asynccontextmanager
async def _embedded_valkey() -> AsyncIterator[RealServer]:
    async with temporary_valkey() as server:
        yield RealServer(server.dsn)
