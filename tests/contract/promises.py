"""What the platform promises, as the code has it now: the catalogue, each OpenAPI document, each event's schema.

`contracts/` has it as it was last accepted. `python tests/contract/promises.py` (make contracts) accepts it as it is
now; `differences` says what a client or a consumer would notice.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import notifications.api
import notifications.messages
import orders.api
import orders.messages
import payments.api
import payments.messages
import webhook_ingest.api
import webhook_ingest.messages
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, ExternalDependencySettings, ServiceDependencySettings
from chassis.errors import ErrorCode
from chassis.events.outbox import Event
from compatibility import broken_catalogue, broken_document, broken_event
from fastapi import FastAPI
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from pydantic import SecretStr
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

FOLDER = Path(__file__).parents[2] / "contracts"

# Who publishes what; `test_every_event_has_one_producer` finds what is not here.
PRODUCED: Mapping[str, tuple[type[Event], ...]] = {
    orders.messages.STREAM: (
        orders.messages.OrderPlaced,
        orders.messages.OrderConfirmed,
        orders.messages.OrderCancelled,
    ),
    payments.messages.STREAM: (
        payments.messages.PaymentCaptured,
        payments.messages.PaymentFailed,
        payments.messages.PaymentCanceled,
        payments.messages.PaymentRefunded,
    ),
    webhook_ingest.messages.STREAM: (
        webhook_ingest.messages.ChargeSucceeded,
        webhook_ingest.messages.ChargeFailed,
        webhook_ingest.messages.RefundSucceeded,
        webhook_ingest.messages.RefundFailed,
    ),
}


def applications() -> Mapping[str, FastAPI]:
    """Each service's application, with nothing behind it."""
    secret = SecretStr("0" * 64)
    database = DatabaseSettings(name="none", user="none", password=secret)
    provider = ExternalDependencySettings(base_url="http://elsewhere", api_key=secret)
    internal = ServiceDependencySettings(base_url="http://elsewhere", token_secret=secret)
    signing = WebhookSecretSettings(payment_provider=[SecretStr("whsec_" + "YWJj" * 10)])
    return {
        "orders": orders.api.create_app(Live(OrdersSettings(database=database, payments=internal))),
        "payments": payments.api.create_app(Live(PaymentsSettings(database=database, provider=provider))),
        "notifications": notifications.api.create_app(Live(NotificationsSettings(database=database))),
        "webhook-ingest": webhook_ingest.api.create_app(
            Live(WebhookIngestSettings(database=database, webhook_secrets=signing))
        ),
    }


def current() -> dict[str, Any]:
    """Each contract by its file's path in `contracts/`, without the ending."""
    events = {
        f"events/{event.options.type}": {
            "stream": stream,
            "version": event.options.version,
            "schema": event.model_json_schema(mode="serialization"),
        }
        for stream, found in PRODUCED.items()
        for event in found
    }
    documents = {f"openapi/{name}": app.openapi() for name, app in applications().items()}
    return {"errors": _catalogue(), **documents, **events}


def accepted(folder: Path = FOLDER) -> dict[str, Any]:
    """Each contract as it was last accepted."""
    return {
        str(path.relative_to(folder).with_suffix("")): json.loads(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.json"))
    }


def write(contracts: Mapping[str, Any], folder: Path = FOLDER) -> None:
    for name in accepted(folder).keys() - contracts.keys():
        _file(folder, name).unlink()
    for name, contract in contracts.items():
        path = _file(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contract, indent=2, ensure_ascii=False) + "\n", "utf-8")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """One line for each thing that is broken, or that is merely not what was accepted."""
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield f"contracts/{name}.json: INCOMPATIBLE: it is gone"
        elif name not in old:
            yield f"contracts/{name}.json: not there yet"
        elif old[name] != new[name]:
            broken = _JUDGES[name.partition("/")[0]](old[name], new[name])
            yield from (f"contracts/{name}.json: INCOMPATIBLE: {problem}" for problem in broken)
            if not broken:
                yield f"contracts/{name}.json: changed, compatibly"


def _catalogue() -> dict[str, Any]:
    return {
        code.name: {
            "status": code.value.status,
            "retryable": code.value.retryable,
            "retry_after": code.value.retry_after,
            "message": code.value.message,
            "remedy": code.value.remedy,
        }
        for code in ErrorCode
    }


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


_JUDGES: Mapping[str, Callable[[Any, Any], list[str]]] = {
    "errors": broken_catalogue,
    "openapi": broken_document,
    "events": broken_event,
}


if __name__ == "__main__":
    now = current()
    sys.stdout.writelines(f"{line}\n" for line in differences(accepted(), now))
    write(now)
