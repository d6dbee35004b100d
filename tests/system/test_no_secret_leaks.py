"""Secrets go through the whole platform, wherever a caller, an operator or a fault can put them, and come out nowhere:
not in a log line, a span, an error, a metric, `/info` or a list of processes.
"""

import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import asyncpg
import httpx
import pytest
from chassis.auth.service_tokens import sign
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.platform import Platform, running_platform
from holdfast_local.postgres import EmbeddedPostgres
from holdfast_local.secrets import SERVICES
from platform_logs import PROGRAMS, PlatformLogs
from pydantic import SecretStr
from trace_collector import Collector
from waiting import eventually

MANAGEMENT = tuple(
    f"{service.replace('-', '_')}{worker}_management" for service in SERVICES for worker in ("", "_worker")
)
ADDRESS = "marked.o'neil+order@secret-shop.example"
# Each is a card's by its check sum, and nothing else here has these digits.
CARDS = ("4929371846520180", "5379 1846 5201 8370", "3742-846520-18370", "6011846520183704")
WRONG_KEY = "f0" * 32
UNKNOWN_KEY = f"hf_unknown0key0_{'Wq7' * 14}x"
TOKEN = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}")
"""A JSON Web Token's head and claims: whoever signed it, none is to be seen."""


def with_check_digit(card: str) -> str:
    """The card with its last digit made right (ISO/IEC 7812-1, annex B)."""
    digits = [int(digit) for digit in reversed(card) if digit.isdigit()][1:]
    total = sum(sum(divmod(2 * digit, 10)) for digit in digits[::2]) + sum(digits[1::2])
    return card[:-1] + str(-total % 10)


@dataclass(slots=True)
class Heist:
    """Carries secrets in, and keeps what it was answered."""

    platform: Platform
    collector: Collector
    client: httpx.AsyncClient
    cards: tuple[str, ...] = tuple(map(with_check_digit, CARDS))
    endpoint_secrets: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> dict[str, str]:
        """What must be found nowhere, by what it is."""
        installation = self.platform.installation
        found: dict[str, str] = {}
        for path in sorted(installation.secrets.folder.rglob("*")):
            if path.is_file():
                words = re.findall(r"[\w+/=-]{16,}", path.read_text())
                found |= {f"{path.relative_to(installation.secrets.folder)} {n}": word for n, word in enumerate(words)}
        found |= {f"webhook secret {n}": secret for n, secret in enumerate(self.endpoint_secrets)}
        found |= {f"card {n}": card for n, card in enumerate(self.cards)}
        found |= {f"card {n}, digits": re.sub(r"\D", "", card) for n, card in enumerate(self.cards)}
        return (
            found
            | {
                "e-mail address": ADDRESS,
                "e-mail address, quoted": quote(ADDRESS),
                "its local part": ADDRESS.partition("@")[0],
                "a key that is not valid": WRONG_KEY,
                "a key that nobody has": UNKNOWN_KEY,
            }
            | {f"{name}'s key without its prefix": key[-43:] for name, key in installation.secrets.client_keys.items()}
        )

    async def ask(self, method: str, port: str, path: str, **options: Any) -> httpx.Response:
        answer = await self.client.request(method, f"{self.platform.installation.url(port)}{path}", **options)
        if answer.is_error:
            self.errors.append(f"{answer.text} {dict(answer.headers)}")
        return answer

    @property
    def key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.platform.installation.secrets.client_keys['acme']}"}

    def order(self, **fields: object) -> dict[str, object]:
        lines = [{"product_id": "anchor", "quantity": 1}]
        return {"lines": lines, "customer_email": ADDRESS, "payment_method": "pm_card_ok"} | fields

    async def buy(self, key: str, **fields: object) -> str:
        answer = await self.ask(
            "POST", "orders", "/v1/orders", json=self.order(**fields), headers=self.key | {"Idempotency-Key": key}
        )
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["id"]
        return found


@pytest.fixture
async def heist(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heist]:
    collector = Collector()
    await collector.listen()
    monkeypatch.setenv("HOLDFAST_TELEMETRY__OTLP_ENDPOINT", collector.url)
    with passing_settings() as settings:
        async with (
            running_platform(settings, overrides=HURRIED) as platform,
            httpx.AsyncClient(trust_env=False, timeout=20) as client,
        ):
            yield Heist(platform, collector, client)
    await collector.close()


async def test_no_secret_reaches_a_log_a_span_an_error_a_metric_or_info(heist: Heist) -> None:
    # The worst case: DEBUG for everything that can write, every library included.
    token = {"Authorization": f"Bearer {heist.platform.installation.secrets.management_token}"}
    for port in MANAGEMENT:
        body = {"logger": "root", "level": "DEBUG", "seconds": 600}
        assert (await heist.ask("PUT", port, "/log-levels", json=body, headers=token)).status_code == 200
    await register_endpoint(heist)
    await buy_and_wait(heist)
    await put_secrets_where_callers_can(heist)
    await put_secrets_where_operators_can(heist)
    await fail_everywhere(heist)
    places = {place: text async for place, text in seen(heist)}
    assert_all_was_seen(heist, places)
    secrets = heist.secrets
    sys.stdout.write(f"{len(secrets)} secrets, {len(places)} places, {sum(map(len, places.values()))} characters\n")
    leaks = [
        f"{what} in {place}: {context(text, secret)}"
        for what, secret in secrets.items()
        for place, text in places.items()
        if secret in text
    ]
    leaks += [f"a token in {place}: {found[0]}" for place, text in places.items() if (found := TOKEN.search(text))]
    assert not leaks, "\n".join(leaks)


async def register_endpoint(heist: Heist) -> None:
    """A customer's endpoint, with the secret that it is told once, and another after a rotation."""
    body = {"url": f"{heist.platform.installation.url('customer_endpoint')}/webhooks/heist"}
    created = await heist.ask(
        "POST", "notifications", "/v1/webhook-endpoints", json=body, headers=heist.key | {"Idempotency-Key": "endpoint"}
    )
    assert created.status_code == 201, created.text
    endpoint = created.json()
    rotated = await heist.ask(
        "POST",
        "notifications",
        f"/v1/webhook-endpoints/{endpoint['id']}/rotate-secret",
        headers=heist.key | {"Idempotency-Key": "rotate"},
    )
    assert rotated.status_code == 200, rotated.text
    heist.endpoint_secrets += [endpoint["secret"], rotated.json()["secret"]]


async def buy_and_wait(heist: Heist) -> None:
    paid, declined = await heist.buy("paid"), await heist.buy("declined", payment_method="pm_card_declined")

    async def are_final() -> bool:
        answers = [await heist.ask("GET", "orders", f"/v1/orders/{one}", headers=heist.key) for one in (paid, declined)]
        return [answer.json()["status"] for answer in answers] == ["confirmed", "cancelled"]

    await eventually(are_final, seconds=60)


async def put_secrets_where_callers_can(heist: Heist) -> None:
    """Each answered with an error, and each echoing as much as an error of its kind does."""
    number, spaced, dashed, last = heist.cards
    digits = number
    for n, body in enumerate(
        (
            heist.order(payment_method=spaced),
            heist.order(customer_email=f"{ADDRESS} {digits}"),
            heist.order(note=f"card {dashed}", card_number=digits, password="hunter2"),
            heist.order(lines=[{"product_id": digits, "quantity": 1}]),
            heist.order(lines=[{"product_id": "anchor", "quantity": int(digits)}]),
            heist.order(**{digits: 1, ADDRESS: 2}),
            [digits, ADDRESS],
            digits,
        )
    ):
        answer = await heist.ask(
            "POST", "orders", "/v1/orders", json=body, headers=heist.key | {"Idempotency-Key": f"wrong-{n}"}
        )
        assert answer.status_code == 422, answer.text
    plain: Mapping[str, str] = heist.key | {"Idempotency-Key": "plain", "Content-Type": "application/json"}
    broken = json.dumps(heist.order(payment_method=digits))[:-1]
    assert (await heist.ask("POST", "orders", "/v1/orders", content=broken, headers=plain)).status_code == 400
    keyed = heist.key | {"Idempotency-Key": f"{digits} {ADDRESS}", "X-Request-ID": digits, "User-Agent": ADDRESS}
    await heist.ask("POST", "orders", "/v1/orders", json=heist.order(payment_method=last), headers=keyed)
    for path in (f"/v1/orders/{digits}", f"/{digits}", f"/v1/orders?cursor={digits}&email={quote(ADDRESS)}"):
        await heist.ask("GET", "orders", path, headers=heist.key | {"X-Request-ID": digits, "Referer": digits})
    await heist.ask("GET", "notifications", f"/v1/mails?order_id={quote(ADDRESS)}", headers=heist.key)
    body = {"url": f"https://operator:hunter2{digits}@shop.example/{quote(spaced)}"}
    await heist.ask(
        "POST", "notifications", "/v1/webhook-endpoints", json=body, headers=heist.key | {"Idempotency-Key": "url"}
    )
    wrong = (f"Bearer {WRONG_KEY}", f"Bearer {digits}", f"Basic {WRONG_KEY}", WRONG_KEY, UNKNOWN_KEY)
    for authorization in (*wrong, f"Bearer {UNKNOWN_KEY}", f"Bearer {heist.key['Authorization'][7:-1]}?"):
        answer = await heist.ask("GET", "orders", "/v1/orders", headers={"Authorization": authorization})
        assert answer.status_code == 401
    await show_tokens(heist)
    forged = {"webhook-id": digits, "webhook-timestamp": digits, "webhook-signature": f"v1,{WRONG_KEY}"}
    secret = heist.platform.installation.secrets.webhook_secret
    for headers in (forged, forged | {"webhook-signature": secret}):
        answer = await heist.ask(
            "POST", "webhook_ingest", "/v1/webhooks/payment-provider", json={"card": digits}, headers=headers
        )
        assert answer.status_code == 401


async def show_tokens(heist: Heist) -> None:
    """One that is taken, one for somebody else, and one where a key is expected."""
    secret = SecretStr(
        (heist.platform.installation.secrets.of("orders") / "payments__token_secret").read_text().strip()
    )
    for audience, status in (("payments", 404), ("orders", 401)):
        token = sign({"iss": "orders", "aud": audience}, secret, now=int(time.time()))
        shown = {"Authorization": f"Bearer {token}", "X-Request-ID": token, "Idempotency-Key": token}
        assert (await heist.ask("GET", "payments", f"/v1/payments/{UUID(int=1)}", headers=shown)).status_code == status
        assert (await heist.ask("GET", "orders", f"/v1/orders?cursor={token}", headers=shown)).status_code == 401


async def put_secrets_where_operators_can(heist: Heist) -> None:
    token = heist.platform.installation.secrets.management_token
    for port in MANAGEMENT:
        for authorization in (f"Bearer {WRONG_KEY}", f"Bearer {token}x", token):
            answer = await heist.ask("PUT", port, "/log-levels", json={}, headers={"Authorization": authorization})
            assert answer.status_code == 401
        for wrong in ({"logger": token}, {"level": heist.cards[0]}, {"seconds": ADDRESS}, {heist.cards[0]: 1}):
            answer = await heist.ask(
                "PUT", port, f"/log-levels?{token}", json=wrong, headers={"Authorization": f"Bearer {token}"}
            )
            assert answer.status_code == 422
        await heist.ask("POST", port, f"/{heist.cards[0]}", headers={"Authorization": f"Bearer {token}"})


async def fail_everywhere(heist: Heist) -> None:
    """Refused mails name their recipient, lost connections and a dead Redis bring tracebacks."""
    installation = heist.platform.installation
    await heist.ask("PUT", "mailbox", "/faults", json={"permanent_reject_rate": 1})
    await heist.ask("PUT", "payment_provider", "/faults", json={"error_rate_before": 1})
    await heist.buy("failing")
    logs = PlatformLogs(installation)

    async def has_failed() -> bool:
        events = {(program, line["event"], line["level"]) for program, line in logs.lines() if line["level"] != "debug"}
        return {
            ("notifications-worker", "mail_settled", "error"),
            ("payments-worker", "job_finished", "warning"),
        } <= events

    await eventually(has_failed, seconds=60)
    await heist.ask("PUT", "payment_provider", "/faults", json={})
    heist.platform.kill("valkey")
    assert isinstance(installation.postgres, EmbeddedPostgres)
    superuser = await asyncpg.connect(installation.postgres.dsn)
    await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%_app'")
    await superuser.close()
    for n in range(3):
        await heist.ask(
            "POST",
            "orders",
            "/v1/orders",
            json=heist.order(),
            headers=heist.key | {"Idempotency-Key": f"during the outage {n}"},
        )
    await heist.platform.until_ready("valkey")

    async def was_noticed() -> bool:
        return "outbox_leadership_lost" in logs.text("orders-worker")

    await eventually(was_noticed, seconds=30)


async def seen(heist: Heist) -> AsyncIterator[tuple[str, str]]:
    """What anybody may see, by place."""
    for port in MANAGEMENT:
        for path in ("/metrics", "/info", "/readyz", "/log-levels"):
            yield f"{port} {path}", (await heist.ask("GET", port, path)).text
    await eventually(lambda: traces_arrived(heist), seconds=30)
    yield "spans", heist.collector.received
    for program in PROGRAMS:
        yield f"log of {program}", heist.platform.installation.log(program).read_text()
    for n, error in enumerate(heist.errors):
        yield f"error {n}", error
    for name, line in command_lines(heist.platform):
        yield f"command line of {name}", line


async def traces_arrived(heist: Heist) -> bool:
    spans = heist.collector.spans.values()
    programs, names = {(span.service, span.instance) for span in spans}, {span.name for span in spans}
    return len(programs) == len(PROGRAMS) and names >= {"POST /v1/orders", "send mail", "deliver webhook"}


def command_lines(platform: Platform) -> Iterator[tuple[str, str]]:
    for name, entry in platform.supervisor.entries.items():
        if entry.is_running and entry.process is not None:
            yield name, Path(f"/proc/{entry.process.pid}/cmdline").read_text()


def assert_all_was_seen(heist: Heist, places: Mapping[str, str]) -> None:
    """A place that is empty by mistake hides every leak."""
    assert all(places.values())
    assert len(heist.errors) > 80
    for program in PROGRAMS:
        assert '"level":"debug"' in places[f"log of {program}"]
    assert "[redacted]" in places["log of notifications-worker"]  # the refused recipient was there
    assert "events {" not in places["spans"]  # an exception's event would carry its whole message


def context(text: str, secret: str) -> str:
    place = text.index(secret)
    return text[max(0, place - 200) : place + 200]
