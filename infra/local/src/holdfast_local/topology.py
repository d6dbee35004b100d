"""What runs on the bare machine, as data: every process, its command, its environment and what it waits for."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from dotenv import dotenv_values

from holdfast_local.installation import Installation, database_name
from holdfast_local.ports import LOOPBACK
from holdfast_local.postgres import ENVIRONMENT as POSTGRES_ENVIRONMENT
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.probes import ready_over_http
from holdfast_local.programs import Program
from holdfast_local.secrets import SCOPES, SERVICES
from holdfast_local.settings import PROJECT
from holdfast_local.valkey import EmbeddedValkey

_CONFIGURATION = PROJECT / "infra" / "local" / "config"
_COMMANDS = Path(sys.executable).parent
"""The environment's own commands stand beside its interpreter; nothing needs to be activated."""

_AFTER: Mapping[str, frozenset[str]] = {
    "webhook-ingest": frozenset(),
    "payments": frozenset({"payment-provider", "webhook-ingest-api"}),
    "orders": frozenset({"payments-api"}),
    "notifications": frozenset({"mailbox", "customer-endpoint"}),
}
"""Who waits for whom beside its migrations and Valkey, so that the first order finds everything it calls."""

type Overrides = Mapping[str, Mapping[str, object]]
"""Settings of one run that go before all layers, by program: `{"orders-worker": {"jobs.lease": 2}}`. No secrets: the
command line shows them.
"""
NO_OVERRIDES: Overrides = MappingProxyType({})


def servers(installation: Installation) -> list[Program]:
    """PostgreSQL and Valkey, those of them that are ours."""
    programs = []
    if isinstance(installation.postgres, EmbeddedPostgres):
        programs.append(_postgres(installation.postgres))
    if isinstance(installation.valkey, EmbeddedValkey):
        programs.append(_valkey(installation.valkey))
    return programs


def services(installation: Installation, overrides: Overrides = NO_OVERRIDES) -> list[Program]:
    """Migrations, clients' keys, simulators and services, for a machine where both servers answer."""
    ours = frozenset(program.name for program in servers(installation))
    programs = [_payment_provider(installation), _mailbox(installation), _customer_endpoint(installation)]
    for service in SERVICES:
        programs.append(_as_owner(installation, service, "migrate", "migrate", after=ours & {"postgres"}))
        after = _AFTER[service] | {f"{service}-migrate"} | ours
        if service in SCOPES:
            programs.append(_registration(installation, service))
            after |= {f"{service}-keys"}
        programs += [_service(installation, service, role, overrides, after=after) for role in ("api", "worker")]
    return programs


def _postgres(server: EmbeddedPostgres) -> Program:
    return Program(
        name="postgres",
        command=server.command(),
        env=POSTGRES_ENVIRONMENT,
        account=server.account,
        log=server.log,
        answers=server.answers,
        address=f"{server.host}:{server.port}",
        ports={"LOCAL_POSTGRES_PORT": server.port},
        stop_signal=signal.SIGINT,  # fast shutdown
        death_signal=signal.SIGINT,
        kill_signal=signal.SIGQUIT,  # immediate shutdown: unlike after SIGKILL, its shared memory is freed
    )


def _valkey(server: EmbeddedValkey) -> Program:
    return Program(
        name="valkey",
        command=server.command(),
        log=server.log,
        answers=server.answers,
        address=f"{server.host}:{server.port}",
        ports={"LOCAL_VALKEY_PORT": server.port},
    )


def _payment_provider(installation: Installation) -> Program:
    port = installation.settings.port("payment_provider")
    options = {
        "--port": str(port),
        "--database": str(installation.settings.state / "payment-provider.sqlite"),
        "--webhook-url": f"{installation.url('webhook_ingest')}/v1/webhooks/payment-provider",
        "--secrets-dir": str(installation.secrets.of("payment-provider")),
    }
    return Program(
        name="payment-provider",
        command=[_COMMANDS / "payment-provider", *_flat(options)],
        env=_environment({}),
        log=installation.log("payment-provider"),
        answers=ready_over_http(port),
        address=installation.url("payment_provider"),
        ports=installation.settings.ports("payment_provider"),
    )


def _mailbox(installation: Installation) -> Program:
    port, smtp_port = installation.settings.port("mailbox"), installation.settings.port("mailbox_smtp")
    options = {
        "--http-port": str(port),
        "--smtp-port": str(smtp_port),
        "--database": str(installation.settings.state / "mailbox.sqlite"),
    }
    return Program(
        name="mailbox",
        command=[_COMMANDS / "mailbox", *_flat(options)],
        env=_environment({}),
        log=installation.log("mailbox"),
        answers=ready_over_http(port),
        address=installation.url("mailbox"),
        ports=installation.settings.ports("mailbox", "mailbox_smtp"),
    )


def _customer_endpoint(installation: Installation) -> Program:
    port = installation.settings.port("customer_endpoint")
    options = {
        "--port": str(port),
        "--database": str(installation.settings.state / "customer-endpoint.sqlite"),
        "--secrets-dir": str(installation.secrets.of("customer-endpoint")),
    }
    return Program(
        name="customer-endpoint",
        command=[_COMMANDS / "customer-endpoint", *_flat(options)],
        env=_environment({}),
        log=installation.log("customer-endpoint"),
        answers=ready_over_http(port),
        address=installation.url("customer_endpoint"),
        ports=installation.settings.ports("customer_endpoint"),
    )


def _registration(installation: Installation, service: str) -> Program:
    """The service's database learns the clients' keys."""
    scopes = [word for scope in SCOPES[service] for word in ("--scope", scope)]
    command = ("api-keys", "register", str(installation.secrets.of("clients")), *scopes)
    return _as_owner(installation, service, "keys", *command, after=frozenset({f"{service}-migrate"}))


def _as_owner(installation: Installation, service: str, purpose: str, *command: str, after: frozenset[str]) -> Program:
    """A command of the service's that runs once, with the login that owns the schema."""
    name = f"{service}-{purpose}"
    return Program(
        name=name,
        command=[_COMMANDS / service, *command],
        env=_service_environment(installation, service, secrets_of=f"{service}-migrate", extra={}),
        log=installation.log(name),
        after=after,
    )


def _service(
    installation: Installation, service: str, role: str, overrides: Overrides, *, after: frozenset[str]
) -> Program:
    name, setting, settings = f"{service}-{role}", database_name(service), installation.settings
    is_api = role == "api"
    management = f"{setting}_management" if is_api else f"{setting}_worker_management"
    management_port = settings.port(management)
    extra = {"HOLDFAST_MANAGEMENT__PORT": str(management_port)}
    if is_api:
        extra["HOLDFAST_HTTP__PORT"] = str(settings.port(setting))
    return Program(
        name=name,
        command=[_COMMANDS / service, role, *_set(overrides.get(name, {}))],
        env=_service_environment(installation, service, secrets_of=service, extra=extra),
        log=installation.log(name),
        after=after,
        answers=ready_over_http(management_port),
        address=installation.url(setting) if is_api else "",
        management=installation.url(management),
        ports=settings.ports(*([setting, management] if is_api else [management])),
    )


def command_of(installation: Installation, service: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """A service's own command and its environment: that of a worker, but keys are made by who owns the schema."""
    secrets_of = f"{service}-migrate" if arguments[:1] == ["api-keys"] else service
    environment = _service_environment(installation, service, secrets_of=secrets_of, extra={})
    return [str(_COMMANDS / service), *arguments], environment


def _service_environment(
    installation: Installation, service: str, *, secrets_of: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """Where the layers of configuration are, and the addresses of this run; passwords are files, never variables."""
    return _environment(
        {
            "HOLDFAST_COMMON_FILE": str(_CONFIGURATION / "common.yaml"),
            "HOLDFAST_SERVICE_FILE": str(_CONFIGURATION / f"{service}.yaml"),
            "HOLDFAST_SECRETS_DIR": str(installation.secrets.of(secrets_of)),
            "HOLDFAST_DATABASE__HOST": installation.postgres.host,
            "HOLDFAST_DATABASE__PORT": str(installation.postgres.port),
            "HOLDFAST_REDIS__HOST": installation.valkey.host,
            "HOLDFAST_REDIS__PORT": str(installation.valkey.port),
            **_dependencies(installation, service),
            **extra,
        }
    )


def _dependencies(installation: Installation, service: str) -> dict[str, str]:
    match service:
        case "orders":
            return {"HOLDFAST_PAYMENTS__BASE_URL": installation.url("payments")}
        case "payments":
            return {"HOLDFAST_PROVIDER__BASE_URL": installation.url("payment_provider")}
        case "notifications":
            port = installation.settings.port("mailbox_smtp")
            customer = installation.settings.port("customer_endpoint")
            return {
                "HOLDFAST_SMTP__HOST": LOOPBACK,
                "HOLDFAST_SMTP__PORT": str(port),
                "HOLDFAST_WEBHOOKS__EGRESS__ALLOWED_PORTS": f"[443, {customer}]",
            }
        case _:
            return {}


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """`.env`, over it the caller's environment without the runner's own settings (a DSN there has a password)."""
    given = {name: value for name, value in dotenv_values(PROJECT / ".env").items() if value is not None}
    inherited = given | dict(os.environ)
    return {name: value for name, value in inherited.items() if not name.startswith("LOCAL_")} | dict(ours)


def _flat(options: Mapping[str, str]) -> list[str]:
    return [word for option in options.items() for word in option]


def _set(settings: Mapping[str, object]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
