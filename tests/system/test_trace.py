"""One order is one trace, through HTTP, jobs, outbox, streams and webhooks: the real platform and a collector."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from holdfast_local.installation import Installation
from holdfast_local.platform import Platform, running_platform
from holdfast_local.ports import free_port
from holdfast_local.settings import LocalSettings
from holdfast_local.state import remove_state
from trace_collector import Collector, Span
from waiting import eventually

# Service, kind and name of each span, from the request on; each is the parent of the next.
TO_THE_CONFIRMATION_MAIL = [
    ("orders", "SERVER", "POST /v1/orders"),
    ("orders", "PRODUCER", "enqueue request_payment"),
    ("orders", "CONSUMER", "run request_payment"),
    ("orders", "CLIENT", "POST request_payment"),
    ("payments", "SERVER", "POST /v1/payments"),
    ("payments", "PRODUCER", "enqueue charge_payment"),
    ("payments", "CONSUMER", "run charge_payment"),
    ("payments", "CLIENT", "POST charge"),
    # The provider, which has no spans of its own, sends the trace on with its webhook.
    ("webhook-ingest", "SERVER", "POST /v1/webhooks/{provider}"),
    ("webhook-ingest", "PRODUCER", "enqueue publish_event"),
    ("webhook-ingest", "CONSUMER", "run publish_event"),
    ("webhook-ingest", "PRODUCER", "publish provider.charge.succeeded"),
    ("payments", "CONSUMER", "process provider.charge.succeeded"),
    ("payments", "PRODUCER", "publish payment.captured"),
    ("orders", "CONSUMER", "process payment.captured"),
    ("orders", "PRODUCER", "publish order.confirmed"),
    ("notifications", "CONSUMER", "process order.confirmed"),
    ("notifications", "PRODUCER", "enqueue send_mail"),
    ("notifications", "CONSUMER", "run send_mail"),
    ("notifications", "CLIENT", "send mail"),
]
TO_THE_FIRST_MAIL = [
    ("orders", "SERVER", "POST /v1/orders"),
    ("orders", "PRODUCER", "publish order.placed"),
    ("notifications", "CONSUMER", "process order.placed"),
    *TO_THE_CONFIRMATION_MAIL[-3:],
]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    await collector.listen()
    yield collector
    await collector.close()


@pytest.fixture
async def platform(collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Platform]:
    """Everything, told of the collector as `.env` or a shell would tell it."""
    monkeypatch.setenv("HOLDFAST_TELEMETRY__OTLP_ENDPOINT", collector.url)
    ports = {name: free_port() for name in LocalSettings.model_fields if name.endswith("_port")}
    settings = LocalSettings(state=tmp_path / "state", port_offset=0, postgres_durable=False).model_copy(update=ports)
    async with running_platform(settings) as platform:
        yield platform
    remove_state(settings.state)


async def test_an_order_is_one_trace_and_a_collector_that_goes_away_stops_nothing(
    collector: Collector, platform: Platform
) -> None:
    await place_order(platform.installation, "traced")

    async def both_mails() -> list[list[Span]]:
        # Each process sends its spans every five seconds: a child may be here before its parent.
        chains = collector.chains_to_mails()
        return chains if len(chains) == 2 and collector.is_complete() else []

    placed, confirmed = sorted(await eventually(both_mails, seconds=30), key=len)
    assert [span.described for span in confirmed] == TO_THE_CONFIRMATION_MAIL
    assert [span.described for span in placed] == TO_THE_FIRST_MAIL
    spans = list(collector.spans.values())
    assert {span.trace_id for span in spans} == {confirmed[0].trace_id}
    assert [span for span in spans if not span.parent_id] == [confirmed[0]]
    assert len({span.instance for span in confirmed}) == len({(s.service, s.is_in_api) for s in confirmed})
    assert_attributes(confirmed)
    assert not [secret for secret in secrets_in(platform.installation) if secret in collector.received]

    await collector.close()
    await place_order(platform.installation, "untraced")

    async def all_mails() -> bool:
        return len(await read_mails(platform.installation)) == 4

    assert await eventually(all_mails, seconds=30)
    await platform.supervisor.stop()
    told = []
    for log in platform.installation.settings.state.glob("logs/*-*.log"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        told += [(line["service"], line["role"]) for line in lines if line["event"] == "spans_lost"]
        assert [line for line in lines if "exception" in line or "opentelemetry" in line.get("logger_name", "")] == []
    assert len(set(told)) == len(told) == 7  # every process but notifications' API, which nobody asked


def assert_attributes(chain: list[Span]) -> None:
    """What semantic conventions ask for, on one span of each kind."""
    by_name = {span.name: span.attributes for span in chain}
    assert by_name["POST /v1/orders"] == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.route": "/v1/orders",
        "url.path": "/v1/orders",
        "url.scheme": "http",
    }
    charge = by_name["POST charge"]
    assert charge["url.full"] == f"http://127.0.0.1:{charge['server.port']}/charges"
    assert (charge["peer.service"], charge["http.response.status_code"]) == ("provider", 202)
    assert (
        by_name["run charge_payment"].items()
        >= {
            "messaging.system": "postgresql",
            "messaging.operation.type": "process",
            "holdfast.job.attempt": 1,
        }.items()
    )
    assert (
        by_name["process payment.captured"].items()
        >= {
            "messaging.system": "redis",
            "messaging.destination.name": "events:payments",
            "messaging.consumer.group.name": "orders",
        }.items()
    )


async def place_order(installation: Installation, key: str) -> None:
    """One order that will be confirmed; nothing else is asked of the services, since that would be a trace, too."""
    body = {
        "lines": [{"product_id": "anchor", "quantity": 1}],
        "customer_email": "ada@shop.example",
        "payment_method": "pm_card_ok",
    }
    client_key = next(iter(installation.secrets.client_keys.values()))
    headers = {"Authorization": f"Bearer {client_key}", "Idempotency-Key": key}
    async with httpx.AsyncClient(base_url=installation.url("orders"), trust_env=False) as client:
        answer = await client.post("/v1/orders", json=body, headers=headers)
    assert answer.status_code == 201, answer.text


async def read_mails(installation: Installation) -> list[object]:
    async with httpx.AsyncClient(base_url=installation.url("mailbox"), trust_env=False) as client:
        mails: list[object] = (await client.get("/messages")).json()
    return mails


def secrets_in(installation: Installation) -> set[str]:
    """Every word in the installation's secret files that is long enough to be a key, a password or a hash."""
    files = [path for path in installation.secrets.folder.rglob("*") if path.is_file()]
    secrets = {word for path in files for word in re.findall(r"[\w+/=-]{16,}", path.read_text())}
    assert len(secrets) > 10
    return secrets
