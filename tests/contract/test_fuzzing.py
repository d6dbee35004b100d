"""Each service, on real PostgreSQL and Valkey, answers whatever it is asked as its OpenAPI document says: `make
test-contract`. How many inputs that were is printed.
"""

import asyncio
import hmac
import itertools
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import notifications.api
import orders.api
import payments.api
import pytest
import webhook_ingest.api
from api_keys import PEPPER, PEPPERS, key_of
from captured_logs import captured_logs
from chassis.app.api.application import Application
from chassis.auth.api_keys import hash_key
from chassis.config import Live
from chassis.config.settings import (
    DatabaseSettings,
    ExternalDependencySettings,
    RateLimitSettings,
    RedisSettings,
    ServiceDependencySettings,
)
from chassis.errors.answers import PROBLEM_JSON
from chassis.process.server import Server
from chassis.webhooks import sign
from conftest import PASSWORD, FreshDatabase
from fuzzing import fuzz
from holdfast_local.ports import free_port
from notifications.settings import NotificationsSettings
from orders.settings import OrdersSettings
from payments.settings import PaymentsSettings
from pydantic import SecretStr
from requests import PreparedRequest
from requests.auth import AuthBase
from webhook_ingest.settings import WebhookIngestSettings, WebhookSecretSettings

EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES") or 80)
KEY = key_of("acme")
HASH = hash_key(KEY, PEPPER.encode()).hex()
TOKEN_SECRET = "t" * 64
SIGNING_SECRET = "whsec_" + "YWJj" * 10
DEPENDENCY_KEY = "key-for-a-dependency"
SECRETS = (PASSWORD, KEY, HASH, PEPPER, SIGNING_SECRET, DEPENDENCY_KEY, TOKEN_SECRET)

NOWHERE = "http://127.0.0.1:9"
PROVIDER = ExternalDependencySettings(base_url=NOWHERE, api_key=SecretStr(DEPENDENCY_KEY))
PAYMENTS = ServiceDependencySettings(base_url=NOWHERE, token_secret=SecretStr(TOKEN_SECRET))


class Asking(AuthBase):
    """Asks for errors in one form and in the other by turns."""

    def __init__(self) -> None:
        self._turns = itertools.count()

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        turn = next(self._turns)
        request.headers["Accept"] = "application/json" if turn % 2 else f"*/*;q=0.5, {PROBLEM_JSON}"
        request.headers.update(self.identify(request, turn))
        return request

    def identify(self, request: PreparedRequest, turn: int) -> Mapping[str, str]:
        """The headers that say who asks."""
        raise NotImplementedError


class Client(Asking):
    def identify(self, *_: object) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {KEY}"}


class Provider(Asking):
    """Signs what is sent, in the format of the sender whose path it is."""

    def identify(self, request: PreparedRequest, turn: int) -> Mapping[str, str]:
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        now = int(time.time())
        match (request.url or "").rpartition("/")[2]:
            case "stripe":
                signature = hmac.digest(SIGNING_SECRET.encode(), f"{now}.".encode() + body, "sha256").hex()
                return {"Stripe-Signature": f"t={now},v1={signature}"}
            case "github":
                signature = hmac.digest(SIGNING_SECRET.encode(), body, "sha256").hex()
                return {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Delivery": f"delivery-{turn}"}
            case _:
                return sign(SIGNING_SECRET, f"evt_{turn}", now, body)


class Stranger(Asking):
    """Without a key, with one of nobody's, with what is none; never signs."""

    _TRIED = (None, "", "Bearer", f"Bearer {key_of('nobody')}", f"Basic {KEY}", KEY, f"Bearer {HASH}", "Bearer \xff")

    def identify(self, _request: PreparedRequest, turn: int) -> Mapping[str, str]:
        tried = self._TRIED[turn % len(self._TRIED)]
        return {} if tried is None else {"Authorization": tried}


def application(service: str, database: DatabaseSettings, redis: RedisSettings) -> Application:
    everybody = {"rate_per_second": 10_000, "burst": 100_000}
    limits = RateLimitSettings.model_validate({**everybody, "unauthenticated": everybody})
    common = {"database": database, "redis": redis, "auth": PEPPERS, "rate_limit": limits}
    match service:
        case "orders":
            return orders.api.create_app(Live(OrdersSettings(**common, payments=PAYMENTS)))
        case "payments":
            return payments.api.create_app(Live(PaymentsSettings(**common, provider=PROVIDER)))
        case "notifications":
            return notifications.api.create_app(Live(NotificationsSettings(**common)))
        case _:
            valid = (SecretStr(SIGNING_SECRET),)
            secrets = WebhookSecretSettings(payment_provider=valid, stripe=valid, github=valid)
            return webhook_ingest.api.create_app(Live(WebhookIngestSettings(**common, webhook_secrets=secrets)))


@asynccontextmanager
async def served(app: Application) -> AsyncIterator[str]:
    """The application behind a real port."""
    port = free_port()
    async with Server(app, host="127.0.0.1", port=port, drain_timeout=1).running():
        if hasattr(app.opened, "resolve"):
            # No question to the real DNS: every name is a public address.
            app.opened = replace(app.opened, resolve=_resolve)
        yield f"http://127.0.0.1:{port}"


async def _resolve(_host: str, _port: int) -> list[str]:
    return ["93.184.215.14"]


# What has to be among the answers, or the questions no longer get anywhere.
REACHED = {
    "orders": {200, 201, 202, 400, 401, 404, 405, 415, 422},
    "payments": {200, 202, 400, 401, 404, 405, 409, 415, 422},
    "notifications": {200, 201, 204, 400, 401, 404, 405, 415, 422},
    "webhook-ingest": {200, 401, 404, 405},
}


@pytest.mark.parametrize("service", REACHED)
async def test_every_answer_is_documented_and_shows_nothing_of_the_inside(
    service: str,
    fresh_database: FreshDatabase,
    redis_settings: RedisSettings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = await fresh_database(service.replace("-", "_"))
    app = application(service, database, redis_settings.model_copy(update={"timeout": 2.0}))
    document = app.openapi()
    examples = max(EXAMPLES, 4 * EXAMPLES // len(document["paths"]))  # of each operation, and more where they are few
    known = Provider() if service == "webhook-ingest" else Client()
    with captured_logs() as logs:
        async with served(app) as url:
            findings = await asyncio.to_thread(fuzz, document, url, auth=known, secrets=SECRETS, examples=examples)
            strangers = await asyncio.to_thread(
                fuzz, document, url, auth=Stranger(), secrets=SECRETS, examples=max(1, examples // 4)
            )
    with capsys.disabled():
        reports = findings.report(service), strangers.report(f"{service}, without key or signature")
        print("", *reports, sep="\n")  # noqa: T201  whoever waited for it wants to know
    assert not findings.problems, "\n\n".join(findings.problems[:20])
    assert not strangers.problems, "\n\n".join(strangers.problems[:20])
    assert findings.statuses.keys() >= REACHED[service]
    assert min(strangers.statuses) >= 400
    assert not logs.of("request_failed")
    assert not [secret for secret in SECRETS if secret in logs.text]
