"""What can be set about a run on this machine: variables `LOCAL_…`, from the shell or `.env`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast_local.errors import RunnerError

PROJECT = Path(__file__).parents[4]
"""The root of the tree: the package runs from it, it is never installed by itself."""

type Port = Annotated[int, Field(ge=1, le=65535)]


class LocalSettings(BaseSettings):
    """Ports are those of the README's table; `port` adds the offset."""

    model_config = SettingsConfigDict(env_prefix="LOCAL_", env_file=PROJECT / ".env", extra="ignore", frozen=True)

    state: Path = Field(
        PROJECT / ".holdfast", description="Databases, secrets and logs; relative paths start at the project's root."
    )
    port_offset: int = Field(0, ge=0, le=50_000, description="Added to every port, to run two platforms at once.")
    postgres_dsn: SecretStr | None = Field(
        None, description="A server to use instead of ours: a superuser, or CREATEDB and CREATEROLE."
    )
    valkey_dsn: SecretStr | None = Field(
        None, description="A server to use instead of ours: redis://:password@host:port."
    )

    postgres_durable: bool = Field(
        True,
        description="False: our PostgreSQL does not wait for the disk. Faster, for tests; a power cut may lose data.",
    )

    orders_port: Port = 8001
    orders_management_port: Port = 9001
    orders_worker_management_port: Port = 9101
    payments_port: Port = 8002
    payments_management_port: Port = 9002
    payments_worker_management_port: Port = 9102
    notifications_port: Port = 8003
    notifications_management_port: Port = 9003
    notifications_worker_management_port: Port = 9103
    webhook_ingest_port: Port = 8004
    webhook_ingest_management_port: Port = 9004
    webhook_ingest_worker_management_port: Port = 9104
    payment_provider_port: Port = 8101
    mailbox_port: Port = 8102
    mailbox_smtp_port: Port = 8125
    customer_endpoint_port: Port = 8103
    postgres_port: Port = 55432
    valkey_port: Port = 56379

    @field_validator("state")
    @classmethod
    def _from_the_root(cls, state: Path) -> Path:
        return PROJECT / state.expanduser()

    def port(self, name: str) -> int:
        """The port to listen on, by the setting's name without `_port`; the variable is `LOCAL_<NAME>_PORT`."""
        port: int = getattr(self, f"{name}_port")
        return port + self.port_offset

    def ports(self, *names: str) -> dict[str, int]:
        """The ports by the variable that moves each."""
        return {f"LOCAL_{name.upper()}_PORT": self.port(name) for name in names}


def load_settings() -> LocalSettings:
    """The settings of this run. Raises RunnerError naming every variable that is wrong."""
    try:
        return LocalSettings()
    except ValidationError as error:
        problems = [f"LOCAL_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
        raise RunnerError("\n".join(problems)) from None
