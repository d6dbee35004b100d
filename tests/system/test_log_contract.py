"""What the page on logging promises, on the real flow: four services, their servers, a provider that can fail."""

import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from chassis.logging import CANONICAL_EVENTS
from chassis.logging.debugging import HEADER, sign
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.platform import Platform, running_platform
from platform_logs import LIFE_OF_A_PROCESS, PROGRAMS, PlatformLogs
from waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "patterns" / "logging.md"

type Lines = Sequence[tuple[str, Mapping[str, Any]]]


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    with passing_settings() as settings:
        async with running_platform(settings, overrides=HURRIED) as platform:
            yield platform


@pytest.fixture
async def shop(platform: Platform) -> AsyncIterator["Shop"]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        shop = Shop(platform, client)
        # Long enough for the first mail to be sent before there is a second, so that none has to wait for the other.
        await shop.provider(capture_delay_seconds=1)
        yield shop
        await shop.provider()


class Shop:
    """A client of the platform that knows the trace of each of its requests."""

    def __init__(self, platform: Platform, client: httpx.AsyncClient) -> None:
        self.installation = platform.installation
        self.logs = PlatformLogs(platform.installation)
        self._client = client
        self._key = platform.installation.secrets.client_keys["acme"]

    async def provider(self, **switches: object) -> None:
        url = f"{self.installation.url('payment_provider')}/faults"
        (await self._client.put(url, json=switches)).raise_for_status()

    async def order(self, card: str = "pm_card_ok", **headers: str) -> tuple[str, str]:
        """Place an order; its id, and its trace's."""
        trace_id = uuid4().hex
        body = {
            "lines": [{"product_id": "anchor", "quantity": 1}],
            "customer_email": "ada@shop.example",
            "payment_method": card,
        }
        answer = await self._client.post(
            f"{self.installation.url('orders')}/v1/orders",
            json=body,
            headers=self._headers(trace_id, headers) | {"Idempotency-Key": trace_id},
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], trace_id

    async def read(self, order_id: str, **headers: str) -> Lines:
        """Read an order; what that wrote."""
        trace_id = uuid4().hex
        url = f"{self.installation.url('orders')}/v1/orders/{order_id}"
        assert (await self._client.get(url, headers=self._headers(trace_id, headers))).status_code == 200

        async def found() -> Lines:
            lines = self.logs.of_trace(trace_id)
            return lines if "request_completed" in {line["event"] for _, line in lines} else []

        return await eventually(found)

    def _headers(self, trace_id: str, headers: Mapping[str, str]) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._key}",
            "traceparent": f"00-{trace_id}-00f067aa0ba902b7-00",
            **headers,
        }

    async def lines(self, trace_id: str) -> Lines:
        """The trace's lines once both of its mails have been sent and every process has written what it did."""

        async def found() -> Lines:
            lines = self.logs.of_trace(trace_id)
            canonical = Counter(line["event"] for _, line in lines if line["event"] in CANONICAL_EVENTS)
            return lines if canonical == CANONICAL_LINES else []

        return await eventually(found, seconds=60)

    async def charges_at_once(self) -> None:
        """Wait until the breaker before the provider, which failures may have opened, lets calls through."""

        async def is_closed() -> bool:
            _, trace_id = await self.order()

            async def charged() -> Mapping[str, Any] | None:
                lines = [line for _, line in self.logs.of_trace(trace_id) if line.get("job") == "charge_payment"]
                return next((line for line in lines if line["event"] == "job_finished"), None)

            charge = await eventually(charged, seconds=60)
            return bool(charge["outcome"] == "completed" and charge["breaker_state"] == "closed")

        await eventually(is_closed, seconds=60)

    async def execute(self, service: str, statement: str, *values: object) -> str:
        connection = await asyncpg.connect(self.installation.database_dsn(service))
        try:
            result: str = await connection.execute(statement, *values)
        finally:
            await connection.close()
        return result

    async def metric(self, port: str, sample: str) -> float:
        text = (await self._client.get(f"{self.installation.url(port)}/metrics")).text
        found = re.search(rf"^{re.escape(sample)} ([0-9.e+]+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


# Three requests; five jobs, two of them mails; events: the provider's, the payment's, and two of the order,
# of which orders hears the second one, too.
CANONICAL_LINES = {"request_completed": 3, "job_finished": 5, "event_processed": 5}


def promised_lines() -> Counter[tuple[str, str, str]]:
    """The table of the page."""
    rows = re.findall(r"^\| ([a-z-]+-(?:api|worker)) \| `(\w+)` \| (?:`([^`]+)` )?\|$", PAGE.read_text(), re.MULTILINE)
    assert {program for program, _, _ in rows} == set(PROGRAMS) - {"notifications-api"}
    return Counter((program, event, about) for program, event, about in rows)


def described(lines: Lines) -> Counter[tuple[str, str, str]]:
    about = {
        "request_completed": "route",
        "job_finished": "job",
        "event_processed": "event_type",
        "payment_moved": "status",
        "order_moved": "status",
        "provider_event_moved": "status",
        "mail_settled": "status",
    }
    return Counter(
        (program, line["event"], str(line[about[line["event"]]]) if line["event"] in about else "")
        for program, line in lines
    )


def levels(lines: Lines) -> set[str]:
    return {line["level"] for _, line in lines}


async def test_an_order_that_goes_well_writes_the_lines_of_the_page_and_no_others(shop: Shop) -> None:
    _, trace_id = await shop.order()
    lines = await shop.lines(trace_id)
    assert described(lines) == promised_lines()
    assert levels(lines) == {"info"}
    others = [line for _, line in shop.logs.lines() if line.get("trace_id") != trace_id]
    assert {line["event"] for line in others} <= LIFE_OF_A_PROCESS


async def test_every_line_says_where_it_comes_from_and_canonical_lines_have_the_fields_of_the_page(shop: Shop) -> None:
    order_id, trace_id = await shop.order()
    lines = await shop.lines(trace_id)
    for program, line in shop.logs.lines():
        assert f"{line['service']}-{line['role']}" == program
        assert line.keys() >= {"version", "environment", "instance", "severity_number", "timestamp", "logger_name"}
    section = PAGE.read_text().partition("**One canonical line**")[2].partition("**Ids on every line**")[0]
    promised = {
        kind: set(re.findall(r"`(\w+)`", text.partition("; if")[0]))
        for kind, text in re.findall(r"  - `?(\w+)`?: ((?:.|\n(?!  - |- ))+)", section)
    }
    assert promised.keys() == {"each", "request_completed", "job_finished", "event_processed"}
    for _, line in lines:
        if line["event"] in promised:
            assert line.keys() >= promised["each"] | promised[line["event"]], line
    charge = next(line for _, line in lines if line.get("job") == "charge_payment" and line["event"] == "job_finished")
    assert (charge["breaker_state"], charge["dependency_calls"]) == ("closed", 1)
    (_, first), (_, second) = [(await shop.read(order_id))[-1] for _ in range(2)]
    assert (first["cache_misses"], second["cache_hits"]) == (1, 1)


async def test_a_declined_card_is_no_error(shop: Shop) -> None:
    _, trace_id = await shop.order("pm_card_declined")
    lines = await shop.lines(trace_id)
    moved = [line for _, line in lines if line["event"] == "order_moved"]
    assert [(line["status"], line["reason"]) for line in moved] == [("cancelled", "card_declined")]
    assert levels(lines) == {"info"}


async def test_a_failing_provider_is_a_warning_while_it_is_tried_again_and_one_error_when_given_up(shop: Shop) -> None:
    await shop.provider(unavailable=True)
    _, trace_id = await shop.order()

    async def charges() -> list[Mapping[str, Any]]:
        lines = [line for program, line in shop.logs.of_trace(trace_id) if program == "payments-worker"]
        return [line for line in lines if line["event"] == "job_finished"]

    async def has_been_retried() -> bool:
        return len(await charges()) >= 2

    await eventually(has_been_retried, seconds=60)
    assert {line["level"] for line in await charges()} == {"warning"}
    # The attempt after the next is its last: nobody waits half an hour here.
    await shop.execute("payments", "UPDATE job SET max_attempts = attempt + 1 WHERE name = 'charge_payment'")

    async def is_given_up() -> bool:
        return (await charges())[-1]["outcome"] == "dead"

    await eventually(is_given_up, seconds=60)
    errors = [line for _, line in shop.logs.of_trace(trace_id) if line["level"] not in {"info", "warning"}]
    assert [(line["level"], line["event"], line["outcome"]) for line in errors] == [("error", "job_finished", "dead")]
    assert "exception" not in errors[0]
    attempts = [line for _, line in shop.logs.of_trace(trace_id) if line["event"] == "dependency_attempt_failed"]
    assert {line["level"] for line in attempts} == {"warning"}
    await shop.provider()
    await shop.charges_at_once()


async def test_a_cache_miss_is_debug_and_a_signed_header_shows_it(shop: Shop) -> None:
    key = shop.installation.secrets.log_debug_key
    order_id, trace_id = await shop.order()
    await shop.lines(trace_id)
    quiet = await shop.read(order_id)
    another, trace_id = await shop.order()
    await shop.lines(trace_id)
    loud = await shop.read(another, **{HEADER: sign(key, expires=int(time.time()) + 60)})
    assert [line["event"] for _, line in quiet] == ["request_completed"]
    missed = [line for _, line in loud if line["event"] == "cache_missed"]
    assert [(line["level"], line["severity_number"]) for line in missed] == [("debug", 5)]


async def test_a_signed_header_turns_debug_on_for_one_request_across_the_services(shop: Shop) -> None:
    valid = sign(shop.installation.secrets.log_debug_key, expires=int(time.time()) + 60)
    _, loud = await shop.order(**{HEADER: valid})
    lines = await shop.lines(loud)
    debug = {(program, line["event"]) for program, line in lines if line["level"] == "debug"}
    assert debug >= {
        ("orders-api", "request_received"),
        ("orders-worker", "job_started"),
        ("orders-worker", "dependency_called"),
        ("payments-api", "request_received"),
        ("payments-worker", "job_started"),
        ("payments-worker", "dependency_called"),
        ("notifications-worker", "event_received"),
        ("notifications-worker", "job_started"),
    }
    # The provider is somebody else's: it is not given the header, so what it causes is written as ever.
    assert not {program for program, _ in debug if program.startswith("webhook-ingest")}
    assert described([(p, line) for p, line in lines if line["level"] != "debug"]) == promised_lines()


@pytest.mark.parametrize("result", ["expired", "invalid"])
async def test_a_wrong_header_changes_nothing_and_is_counted(shop: Shop, result: str) -> None:
    key = shop.installation.secrets.log_debug_key if result == "expired" else "k" * 64
    sample = f'log_debug_headers_total{{result="{result}"}}'
    before = await shop.metric("orders_management", sample)
    _, trace_id = await shop.order(**{HEADER: sign(key, expires=int(time.time()) - 1)})
    lines = await shop.lines(trace_id)
    assert levels(lines) == {"info"}
    assert await shop.metric("orders_management", sample) == before + 1
