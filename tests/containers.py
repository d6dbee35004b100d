"""PostgreSQL and Valkey in containers, set up as the embedded ones are: a test must not see which it has."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends import RealServer
from holdfast_local.postgres import MAX_CONNECTIONS, SUPERUSER
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import CompositeWaitStrategy, ExecWaitStrategy, LogMessageWaitStrategy

POSTGRES_IMAGE = "postgres:18-trixie"
VALKEY_IMAGE = "valkey/valkey:9-trixie"

# Passwords are in files: a process list shows no file.
_PASSWORD_FILE = "/etc/postgres-password"
_CONFIGURATION_FILE = "/etc/valkey.conf"

_COLLATION = "--encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C"


@asynccontextmanager
async def postgres() -> AsyncIterator[RealServer]:
    password = secrets.token_hex(16)
    options = {"max_connections": str(MAX_CONNECTIONS), "fsync": "off", "full_page_writes": "off", "timezone": "UTC"}
    container = (
        DockerContainer(POSTGRES_IMAGE)
        .with_exposed_ports(5432)
        .with_copy_into_container(password.encode(), _PASSWORD_FILE)
        .with_env("POSTGRES_PASSWORD_FILE", _PASSWORD_FILE)
        .with_env("POSTGRES_INITDB_ARGS", _COLLATION)
        .with_command(["postgres", *(f"--{name}={value}" for name, value in options.items())])
        # The log alone would do too early: while the image initialises itself, a server without TCP says the same.
        .waiting_for(
            CompositeWaitStrategy(
                LogMessageWaitStrategy("ready to accept connections"),
                ExecWaitStrategy(["pg_isready", "--host=127.0.0.1"]),
            )
        )
    )
    async with _running(container, 5432) as address:
        yield RealServer(f"postgresql://{SUPERUSER}:{password}@{address}/postgres")


@asynccontextmanager
async def valkey() -> AsyncIterator[RealServer]:
    password = secrets.token_hex(16)
    configuration = f'requirepass {password}\nsave ""\nmaxmemory 128mb\nmaxmemory-policy volatile-lfu\n'
    container = (
        DockerContainer(VALKEY_IMAGE)
        .with_exposed_ports(6379)
        .with_copy_into_container(configuration.encode(), _CONFIGURATION_FILE)
        .with_command(["valkey-server", _CONFIGURATION_FILE])
        .waiting_for(LogMessageWaitStrategy("Ready to accept connections"))
    )
    async with _running(container, 6379) as address:
        yield RealServer(f"redis://:{password}@{address}/0")


@asynccontextmanager
async def _running(container: DockerContainer, port: int) -> AsyncIterator[str]:
    """`host:port` of the port once the container is ready; it and its volumes are removed at the end."""
    try:
        await asyncio.to_thread(container.start)
        yield f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
    finally:
        await asyncio.to_thread(container.stop)
