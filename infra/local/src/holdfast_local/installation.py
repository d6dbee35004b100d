"""What is known about this installation whether it runs or not: its settings, secrets and addresses."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from holdfast_local.databases import Login, create_database
from holdfast_local.errors import RunnerError
from holdfast_local.ports import LOOPBACK
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.secrets import SERVICES, Secrets, load_or_create
from holdfast_local.settings import LocalSettings
from holdfast_local.valkey import EmbeddedValkey


@dataclass(frozen=True, kw_only=True)
class ForeignServer:
    """A server that the environment names: it is used, and never started or stopped."""

    host: str
    port: int
    dsn: str

    @classmethod
    def from_dsn(cls, dsn: SecretStr, *, variable: str, default_port: int) -> Self:
        parts = urlsplit(dsn.get_secret_value())
        if not parts.hostname:
            raise RunnerError(f"{variable} has no host; its form is scheme://user:password@host:port/database")
        return cls(host=parts.hostname, port=parts.port or default_port, dsn=dsn.get_secret_value())


@dataclass(frozen=True, kw_only=True)
class Installation:
    settings: LocalSettings
    secrets: Secrets
    postgres: EmbeddedPostgres | ForeignServer
    valkey: EmbeddedValkey | ForeignServer

    @classmethod
    def load(cls, settings: LocalSettings) -> Self:
        """The installation in the state folder; secrets are generated if this is its first use."""
        foreign_valkey = settings.valkey_dsn and ForeignServer.from_dsn(
            settings.valkey_dsn, variable="LOCAL_VALKEY_DSN", default_port=6379
        )
        secrets = load_or_create(
            settings.state / "secrets",
            redis_password=urlsplit(foreign_valkey.dsn).password or "" if foreign_valkey else None,
        )
        return cls(
            settings=settings,
            secrets=secrets,
            postgres=_postgres(settings, secrets),
            valkey=foreign_valkey or _valkey(settings, secrets),
        )

    def log(self, program: str) -> Path:
        return self.settings.state / "logs" / f"{program}.log"

    def url(self, port: str) -> str:
        """`http://127.0.0.1:8001`, by the name of a port in the settings: `orders`, `orders_management`, `mailbox`."""
        return f"http://{LOOPBACK}:{self.settings.port(port)}"

    def database_dsn(self, service: str) -> str:
        """The service's database, as its run-time role; it holds the password."""
        database = database_name(service)
        password = self.secrets.runtime_passwords[service]
        return f"postgresql://{database}_app:{password}@{self.postgres.host}:{self.postgres.port}/{database}"

    async def create_databases(self) -> None:
        """One database and two roles per service, if they are not there yet."""
        async with asyncio.TaskGroup() as group:
            for service in SERVICES:
                group.create_task(self._create_database(service))

    async def _create_database(self, service: str) -> None:
        database = database_name(service)
        await create_database(
            self.postgres.dsn,
            name=database,
            owner=Login(f"{database}_owner", self.secrets.owner_passwords[service]),
            runtime=Login(f"{database}_app", self.secrets.runtime_passwords[service]),
        )


def database_name(service: str) -> str:
    """PostgreSQL's spelling of a service's name: `webhook_ingest`; its roles add `_owner` and `_app`."""
    return service.replace("-", "_")


def _postgres(settings: LocalSettings, secrets: Secrets) -> EmbeddedPostgres | ForeignServer:
    if settings.postgres_dsn:
        return ForeignServer.from_dsn(settings.postgres_dsn, variable="LOCAL_POSTGRES_DSN", default_port=5432)
    return EmbeddedPostgres(
        settings.state / "postgres",
        port=settings.port("postgres"),
        password=secrets.postgres_password,
        durable=settings.postgres_durable,
        log=settings.state / "logs" / "postgres.log",
    )


def _valkey(settings: LocalSettings, secrets: Secrets) -> EmbeddedValkey:
    return EmbeddedValkey(
        settings.state / "valkey",
        port=settings.port("valkey"),
        password=secrets.valkey_password,
        log=settings.state / "logs" / "valkey.log",
    )
