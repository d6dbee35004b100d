"""What can be set about a run on this machine: variables `LOCAL_…`, from the shell or `.env`."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast_local.errors import RunnerError

PROJECT = Path(__file__).parents[4]
"""The root of the tree: the package runs from it, it is never installed by itself."""

HIGHEST_PORT = 65_535

type Port = Annotated[int, Field(ge=1, le=HIGHEST_PORT)]


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
    postgres_port: Port = 25432
    valkey_port: Port = 25379

    @model_validator(mode="after")
    def _every_port_exists_and_is_one_program_s(self) -> Self:
        variables: dict[int, str] = {}
        for name in (name for name in type(self).model_fields if name.endswith("_port")):
            port, variable = getattr(self, name), f"LOCAL_{name.upper()}"
            if other := variables.get(port):  # each would be told from the other only by what it answers
                raise ValueError(f"{other} and {variable} are both {port}")
            variables[port] = variable
        highest = max(variables)
        if highest + self.port_offset > HIGHEST_PORT:
            raise ValueError(f"LOCAL_PORT_OFFSET moves port {highest} past {HIGHEST_PORT}")
        return self

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
        raise RunnerError("\n".join(_describe(problem) for problem in error.errors())) from None


def _describe(problem: ErrorDetails) -> str:
    """What is wrong with which variable; a rule over several of them names them itself."""
    name = "_".join(str(part) for part in problem["loc"]).upper()
    message = problem["msg"].removeprefix("Value error, ")
    return f"LOCAL_{name}: {message}" if name else message
