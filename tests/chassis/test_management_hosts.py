"""A management port answers to names that no web page can have: a page whose name is rebound reads nothing."""

import socket
from collections.abc import Collection

import httpx
import pytest
from chassis.process.health import Health
from chassis.process.management_app import management_app
from chassis.process.management_hosts import is_allowed
from pydantic import SecretStr

TOKEN = "t" * 64


@pytest.mark.parametrize(
    "host",
    [
        "",  # HTTP/1.0, as compose's health check sends it
        "127.0.0.1:9001",
        "10.1.2.3:9000",  # the kubelet's probes and Prometheus in a cluster
        "[::1]:9001",
        "[fd00::1234]",
        "localhost:9001",
        "LOCALHOST",
        "localhost.",
        "orders-api:9000",  # Prometheus in compose
        "holdfast-orders-management.shop.svc:9000",
        "holdfast-orders-management.shop.svc.cluster.local:9000",
        "host.docker.internal:9001",
        socket.gethostname(),
    ],
)
def test_an_address_or_a_private_name_is_answered(host: str) -> None:
    assert is_allowed(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9001",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "orders.svc.evil.example",
        "svc.cluster.local.evil.example",
        "evilcluster.local.example.",
        "10-1-2-3.nip.io",
        "127.1",
        "0x7f.0.0.1",
        "user@localhost.evil.example",
        "xn--localhost-9za.com",
    ],
)
def test_a_name_that_a_stranger_can_register_is_not_answered(host: str) -> None:
    assert not is_allowed(host)


@pytest.mark.parametrize(
    ("host", "more", "answered"),
    [
        ("metrics.example.com", ["metrics.example.com"], True),
        ("METRICS.example.com:443", ["metrics.Example.com"], True),
        ("a.metrics.example.com", ["metrics.example.com"], False),
        ("a.b.example.com", [".example.com"], True),
        ("example.com", [".example.com"], False),
        ("evilexample.com", [".example.com"], False),
    ],
)
def test_further_names_are_answered_as_the_setting_says(host: str, more: Collection[str], *, answered: bool) -> None:
    assert is_allowed(host, more) is answered


async def test_a_rebound_page_reads_and_changes_nothing() -> None:
    hosts: list[str] = []
    app = management_app(Health(), {"service": "shop"}, token=lambda: SecretStr(TOKEN), hosts=lambda: hosts)
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://evil.example:9000") as page:
        for path in ("/livez", "/metrics", "/info", "/log-levels", "/none"):
            refused = await page.get(path, headers=authorization)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "FORBIDDEN"), path
        change = {"logger": "shop", "level": "DEBUG", "seconds": 60}
        assert (await page.put("/log-levels", headers=authorization, json=change)).status_code == 403
        hosts.append("evil.example")
        assert (await page.get("/livez")).status_code == 200
