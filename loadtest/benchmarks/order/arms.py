"""The arms of the comparison: the platform as it is, and the programs that run in its place, over the same servers."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast_local.installation import Installation
from holdfast_local.ports import LOOPBACK
from holdfast_local.probes import ready_over_http
from holdfast_local.programs import Program
from holdfast_local.secrets import SERVICES
from holdfast_local.settings import LocalSettings
from holdfast_local.topology import NO_OVERRIDES, Overrides

_HERE = Path(__file__).parent
_UNLIMITED = {
    "rate_limit.clients": 0,  # or the limits of all three clients would have to fit into the edges
    "rate_limit.rate_per_second": 10_000,
    "rate_limit.burst": 10_000,
    "rate_limit.edges": '{"orders": {"payments": 10000}, "payments": {"provider": 10000}}',
}
_PROMISE = {"backlog.promise": 3600}
"""A benchmark posts more orders than the platform finishes within its promise of 30 s, and wants all of them."""
_NOT_IN_PLAIN = {"notifications-api", "customer-endpoint", *(f"{service}-keys" for service in SERVICES)}
_IN_DURABLE = {"payment-provider", "mailbox", "orders-migrate", "orders-api"}


def _as_it_is(program: Program) -> Program:
    return program


def _all(_: Program) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What `running_platform` starts."""

    adapt: Callable[[Program], Program] = _as_it_is
    wanted: Callable[[Program], bool] = _all
    overrides: Overrides = NO_OVERRIDES


def holdfast(_: LocalSettings) -> Arm:
    """The platform with its default settings. Only the rate limits and the promise of orders and payments are raised,
    so that these services refuse no order.
    """
    raised = dict.fromkeys(SERVICES, _UNLIMITED)
    raised |= dict.fromkeys(("orders", "payments"), _UNLIMITED | _PROMISE)
    return Arm(overrides={f"{service}-{role}": raised[service] for service in SERVICES for role in ("api", "worker")})


def plain_orm(settings: LocalSettings) -> Arm:
    return _plain("orm", settings)


def plain_sql(settings: LocalSettings) -> Arm:
    return _plain("sql", settings)


def plain_batched(settings: LocalSettings) -> Arm:
    return _plain("batched", settings)


def _plain(form: str, settings: LocalSettings) -> Arm:
    """Three APIs and four workers of `plain/` in place of ours, at the same addresses, with the same databases."""
    installation = Installation.load(settings)

    def adapt(program: Program) -> Program:
        service, _, role = program.name.rpartition("-")
        if service not in SERVICES:
            return program
        port = settings.port(service.replace("-", "_"))
        answers = {"migrate": None, "api": ready_over_http(port), "worker": _at_once}[role]
        return replace(
            program,
            command=[sys.executable, _HERE / "plain", form, service, role],
            env=_environment(installation, service, role, str(port)),
            after=program.after - _NOT_IN_PLAIN,
            answers=answers,
        )

    return Arm(adapt=adapt, wanted=lambda program: program.name not in _NOT_IN_PLAIN)


def durable(settings: LocalSettings) -> Arm:
    """One process of `durable/` in place of all ours, at the addresses of orders and of webhook-ingest."""
    installation = Installation.load(settings)

    def adapt(program: Program) -> Program:
        if not program.name.startswith("orders-"):
            return program
        is_api = program.name == "orders-api"
        ports = ",".join(str(settings.port(name)) for name in ("orders", "webhook_ingest"))
        return replace(
            program,
            command=[_HERE / ".venv" / "bin" / "python", _HERE / "durable", "serve" if is_api else "migrate"],
            # dbos makes its tables itself.
            env=_environment(installation, "orders", "migrate", ports),
            after=program.after & _IN_DURABLE,
            answers=ready_over_http(settings.port("orders")) if is_api else None,
        )

    return Arm(adapt=adapt, wanted=lambda program: program.name in _IN_DURABLE)


async def _at_once() -> bool:
    """A plain worker has no address that could be asked."""
    return True


def _environment(installation: Installation, service: str, role: str, ports: str) -> Mapping[str, str]:
    secrets, dsn = installation.secrets, installation.database_dsn(service)
    if role == "migrate":
        owner = (f"_owner:{secrets.owner_passwords[service]}", f"_app:{secrets.runtime_passwords[service]}")
        dsn = dsn.replace(owner[1], owner[0])
    valkey = installation.settings.port("valkey")
    return {
        "PATH": os.environ["PATH"],
        "PLAIN_DSN": dsn,
        "PLAIN_PORT": ports,
        "PLAIN_REDIS": f"redis://:{secrets.valkey_password}@{LOOPBACK}:{valkey}",
        "PLAIN_PAYMENTS_URL": installation.url("payments"),
        "PLAIN_PROVIDER_URL": installation.url("payment_provider"),
        "PLAIN_PROVIDER_KEY": secrets.provider_api_key,
        "PLAIN_WEBHOOK_SECRET": secrets.webhook_secret,
        "PLAIN_SMTP_PORT": str(installation.settings.port("mailbox_smtp")),
    }


ARMS: Mapping[str, Callable[[LocalSettings], Arm]] = {
    "holdfast": holdfast,
    "plain, ORM": plain_orm,
    "plain, SQL": plain_sql,
    "plain, batches": plain_batched,
    "dbos": durable,
}
