"""Webhooks that nobody honest sends, as bytes on a real port: each has its answer, and none is a 5xx."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import orjson
import pytest
from backends import FreshDatabase
from chassis import webhooks
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.pooling import Database
from chassis.process.server import Server
from harness import count, rows
from holdfast_local.ports import free_port
from pydantic import SecretStr
from stripe import WebhookSignature
from webhook_ingest.api import create_app
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

SECRET = "whsec_" + "bmV3" * 10
STRIPE_SECRET = "whsec_of-stripe"
GITHUB_SECRET = "of GitHub"
BODY = b'{"id": "evt_1", "type": "ping"}'
TEN_MEGABYTES = 10 * 1024 * 1024

type Lines = list[tuple[str, bytes]]


def standard(body: bytes, *, age: int = 0) -> Lines:
    signed = webhooks.sign(SECRET, "evt_1", int(time.time()) - age, body)
    return [(name, value.encode()) for name, value in signed.items()]


def stripe(body: bytes, *, age: int = 0) -> Lines:
    """By the published package where the body is text, which is all that it signs."""
    at = int(time.time()) - age
    if body.isascii():
        header = WebhookSignature.generate_signature_header(body.decode(), STRIPE_SECRET, timestamp=at)
    else:
        digest = hmac.new(STRIPE_SECRET.encode(), f"{at}.".encode() + body, "sha256")
        header = f"t={at},v1={digest.hexdigest()}"
    return [("stripe-signature", header.encode())]


def github(body: bytes) -> Lines:
    digest = hmac.new(GITHUB_SECRET.encode(), body, "sha256").hexdigest()
    return [("x-hub-signature-256", f"sha256={digest}".encode()), ("x-github-delivery", b"72d3162e-cc78-11e3-81ab")]


SIGN: dict[str, Callable[[bytes], Lines]] = {"payment-provider": standard, "stripe": stripe, "github": github}
PROVIDERS = pytest.mark.parametrize("provider", SIGN)


@dataclass(frozen=True, slots=True)
class Ingest:
    port: int
    database: Database

    async def post(
        self,
        provider: str,
        lines: Lines,
        body: bytes = BODY,
        *,
        length: int | None = None,
        content_type: bytes = b"application/json",
    ) -> tuple[int, str]:
        """Status and code of the answer (or the status in its body) to exactly these bytes."""
        head = [
            b"POST /v1/webhooks/" + provider.encode() + b" HTTP/1.1",
            b"Host: ingest",
            b"Content-Type: " + content_type,
            b"Content-Length: " + str(len(body) if length is None else length).encode(),
            b"X-Request-Timeout-Ms: 1000",
            b"Connection: close",
            *(name.encode() + b": " + value for name, value in lines),
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
            raw = await asyncio.wait_for(reader.read(), timeout=10)
        finally:
            writer.close()
        parsed = orjson.loads(raw.partition(b"\r\n\r\n")[2])
        return int(raw.split(b" ", 2)[1]), parsed.get("status") or parsed["error"]["code"]

    async def nothing_is_stored(self) -> bool:
        return await count(self.database, "provider_event") == await count(self.database, "job") == 0


@pytest.fixture
async def ingest(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
) -> AsyncIterator[Ingest]:
    settings = WebhookIngestSettings(
        database=await empty_database("webhook_ingest"),
        redis=patient_redis,
        webhook_secrets=WebhookSecretSettings(
            payment_provider=[SecretStr(SECRET)], stripe=[SecretStr(STRIPE_SECRET)], github=[SecretStr(GITHUB_SECRET)]
        ),
    )
    port = free_port()
    server = Server(create_app(Live(settings)), host="127.0.0.1", port=port, drain_timeout=1, trusted_proxies=())
    async with server.running():
        yield Ingest(port, open_database(settings.database))


@PROVIDERS
async def test_a_body_of_10_megabytes_is_refused_before_it_has_arrived(ingest: Ingest, provider: str) -> None:
    lines = SIGN[provider](BODY)
    started = b"[" + b" " * 100_000  # the rest never comes
    assert await ingest.post(provider, lines, started, length=TEN_MEGABYTES) == (413, "PAYLOAD_TOO_LARGE")
    assert await ingest.nothing_is_stored()


@PROVIDERS
async def test_a_body_that_stops_half_way_is_refused_when_its_time_is_over(ingest: Ingest, provider: str) -> None:
    lines = SIGN[provider](BODY)
    assert await ingest.post(provider, lines, BODY[:-1], length=len(BODY)) == (408, "REQUEST_TIMEOUT")
    assert await ingest.nothing_is_stored()


@PROVIDERS
async def test_bytes_that_are_no_text_are_kept_as_they_came_if_they_are_signed(ingest: Ingest, provider: str) -> None:
    body = b"\xff\xfe\x00" + BODY
    answer = await ingest.post(provider, SIGN[provider](body), body)
    if provider == "stripe":  # the id is in the body, which nobody can read
        assert answer == (401, "SIGNATURE_INVALID")
        assert await ingest.nothing_is_stored()
        return
    assert answer == (200, "accepted")
    assert [row.body for row in await rows(ingest.database, "SELECT body FROM provider_event")] == [body]


@PROVIDERS
async def test_a_header_that_comes_twice_is_refused_even_if_both_are_right(ingest: Ingest, provider: str) -> None:
    lines = SIGN[provider](BODY)
    for repeated in lines:
        assert await ingest.post(provider, [*lines, repeated]) == (401, "SIGNATURE_INVALID"), repeated[0]
    assert await ingest.nothing_is_stored()


@PROVIDERS
async def test_two_lengths_are_no_request(ingest: Ingest, provider: str) -> None:
    lines = [*SIGN[provider](BODY), ("content-length", b"1")]
    assert await ingest.post(provider, lines) == (400, "MALFORMED_REQUEST")
    assert await ingest.nothing_is_stored()


@PROVIDERS
async def test_what_is_signed_is_taken_whatever_its_content_type_says(ingest: Ingest, provider: str) -> None:
    """Nobody signs that header, so it proves nothing, and to refuse it would lose an event."""
    for content_type in (b"text/plain", b"application/x-www-form-urlencoded", b"\xff", b""):
        status, _ = await ingest.post(provider, SIGN[provider](BODY), content_type=content_type)
        assert status == 200, content_type
    assert await count(ingest.database, "provider_event") == 1


@pytest.mark.parametrize(("provider", "sign"), [("payment-provider", standard), ("stripe", stripe)])
async def test_a_replay_is_a_duplicate_within_the_tolerance_and_refused_after_it(
    ingest: Ingest, provider: str, sign: Callable[..., Lines]
) -> None:
    for age in (0, webhooks.TOLERANCE_SECONDS - 20):
        assert (await ingest.post(provider, sign(BODY, age=age)))[0] == 200
    assert await ingest.post(provider, sign(BODY, age=webhooks.TOLERANCE_SECONDS + 1)) == (401, "SIGNATURE_INVALID")
    assert await count(ingest.database, "provider_event") == await count(ingest.database, "job") == 1


@pytest.mark.parametrize(("provider", "sign"), [("payment-provider", standard), ("stripe", stripe)])
async def test_a_time_in_the_future_is_refused_beyond_the_tolerance(
    ingest: Ingest, provider: str, sign: Callable[..., Lines]
) -> None:
    too_early = -(webhooks.TOLERANCE_SECONDS + 20)
    assert await ingest.post(provider, sign(BODY, age=too_early)) == (401, "SIGNATURE_INVALID")
    assert await ingest.nothing_is_stored()
    assert await ingest.post(provider, sign(BODY, age=too_early + 40)) == (200, "accepted")


NONSENSE = [b"", b"\xff\xfe", b"v1,\xc3\xbc", b"9" * 5000, b"t=,v1=", b"sha256=", b"=" * 500]


@PROVIDERS
async def test_a_header_that_is_nonsense_is_a_wrong_signature(ingest: Ingest, provider: str) -> None:
    lines = SIGN[provider](BODY)
    for position, (name, _) in enumerate(lines):
        for value in NONSENSE:
            if name == "x-github-delivery" and value.isascii() and 0 < len(value) < 256:  # no nonsense: any id is one
                continue
            nonsense = [*lines[:position], (name, value), *lines[position + 1 :]]
            assert await ingest.post(provider, nonsense) == (401, "SIGNATURE_INVALID"), (name, value)
    assert await ingest.nothing_is_stored()
