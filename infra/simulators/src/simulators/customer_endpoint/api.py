"""The endpoint's HTTP interface: /webhooks for senders, the rest for tests."""

import asyncio
import re
from collections.abc import AsyncGenerator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from simulators.answers import InvalidError, close_unanswered, never_answer, page_of, read_object, strings
from simulators.customer_endpoint.attempts import Attempt, Attempts
from simulators.customer_endpoint.switches import EndpointSwitches
from simulators.customer_endpoint.verification import Secrets, refusal
from simulators.faults import Switchboard, faults_route
from simulators.process import log, timestamp

STATUSES = {"error_rate": 500, "gone_rate": 410, "reject_rate": 400, "throttle_rate": 429, "redirect": 302}
"""What a fault answers, whatever the signature."""
DRAWN = ("answer_lost_rate", "error_rate", "gone_rate", "reject_rate", "throttle_rate")
"""Of those that hit an attempt, the first one counts."""
SLOW_BODY_SECONDS = 60
"""One byte a second: no reasonable sender waits for the end."""


class Api:
    def __init__(self, attempts: Attempts, secrets: Secrets, faults: Switchboard[EndpointSwitches]) -> None:
        self._attempts = attempts
        self._secrets = secrets
        self._faults = faults

    def routes(self) -> list[Route]:
        return [
            Route("/webhooks/{name}", self.post_webhook, methods=["POST"]),
            Route("/redirected/{name}", self.follow_redirect, methods=["GET", "POST"]),
            Route("/secrets/{name}", self.put_secrets, methods=["PUT"]),
            Route("/received", self.get_received, methods=["GET"]),
            Route("/received/search", self.search_received, methods=["POST"]),
            Route("/received/totals", self.get_totals, methods=["GET"]),
            Route("/received", self.delete_received, methods=["DELETE"]),
            Route("/readyz", self.get_readiness, methods=["GET"]),
            faults_route(self._faults),
        ]

    async def post_webhook(self, request: Request) -> Response:
        name, headers, body = name_of(request), dict(request.headers), await request.body()
        skew = self._faults.on.clock_skew_seconds
        reason = refusal(self._secrets.of(name), headers, body, clock_skew_seconds=skew)
        attempt = received(name, headers, body, reason=reason, fault=self._fault())
        identifier = self._keep(attempt)
        await self._meet_silence(request, attempt.fault)
        accepted = 200 if self._faults.on.slow_body else 204  # a 204 has no body that could be slow
        status = STATUSES.get(attempt.fault or "", accepted if attempt.is_verified else 401)
        self._attempts.answer(identifier, status)
        log("webhook_answered", id=identifier, status=status)
        return self._response(status, name)

    async def follow_redirect(self, request: Request) -> Response:
        """Where `redirect` leads. No sender may come here; one that does is seen in /received."""
        headers, body = dict(request.headers), await request.body()
        attempt = received(name_of(request), headers, body, reason="Followed a redirect", fault=None)
        self._attempts.answer(self._keep(attempt), 204)
        return Response(status_code=204)

    async def put_secrets(self, request: Request) -> Response:
        name, payload = name_of(request), await read_object(request)
        secrets = strings(payload, "secrets")
        try:
            self._secrets.put(name, secrets)
        except ValueError as error:
            raise InvalidError("secrets", str(error)) from None
        log("secrets_set", name=name, count=len(secrets))
        return JSONResponse({"name": name, "secrets": len(secrets)})

    async def get_received(self, request: Request) -> Response:
        query = request.query_params
        attempts = self._attempts.attempts(
            name=query.get("name"), webhook_id=query.get("webhook_id"), page=page_of(request)
        )
        return JSONResponse([attempt.shown() for attempt in attempts])

    async def search_received(self, request: Request) -> Response:
        """The verified attempts at these webhooks."""
        webhook_ids = strings(await read_object(request), "webhook_ids")
        return JSONResponse(self._attempts.verified(webhook_ids))

    async def get_totals(self, _request: Request) -> Response:
        return JSONResponse({"attempts": self._attempts.count_verified()})

    async def delete_received(self, _request: Request) -> Response:
        return JSONResponse({"deleted": self._attempts.clear()})

    async def get_readiness(self, _request: Request) -> Response:
        self._attempts.count()
        return JSONResponse({"status": "ready"})

    def _fault(self) -> str | None:
        """The switch that decides the answer. All rates are drawn each time, so that none depends on another."""
        hit = [name for name in DRAWN if self._faults.draw(name)]
        if self._faults.on.hang:
            return "hang"
        return hit[0] if hit else "redirect" if self._faults.on.redirect else None

    def _keep(self, attempt: Attempt) -> int | None:
        identifier = self._attempts.add(attempt)
        log(
            "webhook_received",
            id=identifier,
            name=attempt.name,
            webhook_id=attempt.webhook_id,
            verified=attempt.is_verified,
            reason=attempt.reason,
            fault=attempt.fault,
        )
        return identifier

    async def _meet_silence(self, request: Request, fault: str | None) -> None:
        """Wait as long as the faults say; ClientDisconnect when nobody is left to be answered."""
        if fault == "hang":
            await never_answer(request)
        if self._faults.on.latency_seconds:
            await asyncio.sleep(self._faults.on.latency_seconds)
        if fault == "answer_lost_rate":
            await close_unanswered(request)
        if await request.is_disconnected():
            raise ClientDisconnect

    def _response(self, status: int, name: str) -> Response:
        headers: dict[str, str] = {}
        if status == STATUSES["throttle_rate"]:
            headers["Retry-After"] = str(self._faults.on.retry_after_seconds)
        if status == STATUSES["redirect"]:
            headers["Location"] = f"/redirected/{name}"
        if self._faults.on.slow_body:
            return StreamingResponse(drip(), status, headers, "text/plain")
        return Response(None, status, headers)


def name_of(request: Request) -> str:
    name: str = request.path_params["name"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):  # it becomes the name of a file
        raise InvalidError("name", "must be 1 to 64 letters, digits, - and _")
    return name


def received(name: str, headers: dict[str, str], body: bytes, *, reason: str | None, fault: str | None) -> Attempt:
    return Attempt(
        received_at=timestamp(),
        name=name,
        webhook_id=headers.get("webhook-id"),
        webhook_timestamp=headers.get("webhook-timestamp"),
        reason=reason,
        fault=fault,
        headers=headers,
        body=body.decode(errors="replace"),
    )


async def drip() -> AsyncGenerator[bytes]:
    for _ in range(SLOW_BODY_SECONDS):
        yield b"."
        await asyncio.sleep(1)
