"""The provider's HTTP interface: /charges and /refunds for its customers, /ledger and /faults for tests."""

import asyncio
import hmac
import json
import re
import time
from collections.abc import Callable
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulators.answers import (
    InvalidError,
    RefusedError,
    close_unanswered,
    never_answer,
    page_of,
    read_object,
    strings,
)
from simulators.faults import Switchboard, faults_route
from simulators.payment_provider.charging import ChargeRequest, Charging, Post, RefundRequest, Reply, shown
from simulators.payment_provider.store import LEDGER, Answer, Store
from simulators.payment_provider.switches import ProviderSwitches
from simulators.process import log

MAX_KEY_LENGTH = 255
TRACEPARENT = re.compile(r"[0-9a-f]{2}(-[0-9a-f]+){3}")
"""Enough to send it on as it came; what is in it is for those who trace (https://www.w3.org/TR/trace-context/)."""


class Api:
    """`on_change` is called after each commit that gives the clerk something to do."""

    def __init__(
        self,
        store: Store,
        charging: Charging,
        faults: Switchboard[ProviderSwitches],
        *,
        api_key: str,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._charging = charging
        self._faults = faults
        self._api_key = api_key.encode()
        self._on_change = on_change
        self._in_progress: dict[str, str] = {}
        """Fingerprints by idempotency key. In memory only: a crash ends what was in progress."""

    def routes(self) -> list[Route]:
        return [
            Route("/charges", self.post_charge, methods=["POST"]),
            Route("/charges", self.list_charges, methods=["GET"]),
            Route("/charges/{identifier}", self.get_charge, methods=["GET"]),
            Route("/refunds", self.post_refund, methods=["POST"]),
            Route("/refunds", self.list_refunds, methods=["GET"]),
            Route("/refunds/{identifier}", self.get_refund, methods=["GET"]),
            Route("/ledger", self.get_ledger, methods=["GET"]),
            Route("/ledger/search", self.search_ledger, methods=["POST"]),
            Route("/ledger/totals", self.get_totals, methods=["GET"]),
            Route("/ledger/{kind}", self.get_ledger_page, methods=["GET"]),
            Route("/readyz", self.get_readiness, methods=["GET"]),
            faults_route(self._faults),
        ]

    async def post_charge(self, request: Request) -> Response:
        return await self._once(request, ChargeRequest.parse, self._charging.charge)

    async def post_refund(self, request: Request) -> Response:
        return await self._once(request, RefundRequest.parse, self._charging.refund)

    async def get_charge(self, request: Request) -> Response:
        return await self._get(request, "charge")

    async def get_refund(self, request: Request) -> Response:
        return await self._get(request, "refund")

    async def list_charges(self, request: Request) -> Response:
        return await self._list(request, "charge")

    async def list_refunds(self, request: Request) -> Response:
        return await self._list(request, "refund")

    async def get_ledger(self, _request: Request) -> Response:
        return JSONResponse(self._store.ledger())

    async def search_ledger(self, request: Request) -> Response:
        return JSONResponse(self._store.about(strings(await read_object(request), "references")))

    async def get_totals(self, _request: Request) -> Response:
        return JSONResponse(self._store.totals())

    async def get_ledger_page(self, request: Request) -> Response:
        if (kind := request.path_params["kind"]) not in LEDGER:
            raise RefusedError(404, "not_found", f"the ledger has {', '.join(LEDGER)}")
        return JSONResponse(self._store.page(kind, page_of(request)))

    async def get_readiness(self, _request: Request) -> Response:
        self._store.waiting_events(1)
        return JSONResponse({"status": "ready"})

    async def _once[R](
        self,
        request: Request,
        parse: Callable[[dict[str, object]], R],
        act: Callable[[R, Post], Reply],
    ) -> Response:
        """Answer a POST: the first under its key acts, later ones get the same bytes again.

        An invalid payload is not kept: nothing was done, and the caller may correct it under the same key.
        """
        self._authenticate(request)
        key = self._counted_key(request)
        await self._meet_outage(request)
        payload = await read_object(request)
        asked = parse(payload)
        fingerprint = fingerprint_of(request.url.path, payload)
        kept = self._store.answer(key)
        self._refuse_clash(kept.fingerprint if kept else self._in_progress.get(key), fingerprint)
        if kept is None:
            answer = await self._first(
                key, fingerprint, lambda: act(asked, Post(key, time.time(), traceparent_of(request)))
            )
        else:
            await self._meet_delay()
            answer = kept
        self._log_answer(request, payload, key, answer, replayed=kept is not None)
        self._meet_error("error_rate_after")
        if self._faults.draw("answer_lost_rate"):
            await close_unanswered(request)
        headers = {"Idempotent-Replayed": "true"} if kept else None
        return Response(answer.body, answer.status, headers, "application/json")

    async def _first(self, key: str, fingerprint: str, act: Callable[[], Reply]) -> Answer:
        """Act and keep the answer in one transaction; meanwhile, another POST with the key gets 409."""
        if key in self._in_progress:
            raise RefusedError(409, "request_in_progress", "a request with this Idempotency-Key is being served")
        self._in_progress[key] = fingerprint
        try:
            await self._meet_delay()
            with self._store.transaction():
                status, body = act()
                answer = Answer(fingerprint, status, json.dumps(body))
                self._store.keep_answer(key, answer)
        finally:
            del self._in_progress[key]
        self._on_change()
        return answer

    async def _get(self, request: Request, kind: str) -> Response:
        await self._enter(request)
        transfer = self._store.transfer(kind, request.path_params["identifier"])
        if transfer is None:
            raise RefusedError(404, "not_found", f"there is no such {kind}")
        return JSONResponse(shown(transfer))

    async def _list(self, request: Request, kind: str) -> Response:
        await self._enter(request)
        reference = request.query_params.get("reference")
        if reference is None:
            raise InvalidError("reference", "is required in the query")
        return JSONResponse({"data": [shown(transfer) for transfer in self._store.transfers(kind, reference)]})

    async def _enter(self, request: Request) -> None:
        self._authenticate(request)
        await self._meet_outage(request)
        await self._meet_delay()

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), self._api_key):
            raise RefusedError(401, "unauthorized", "send Authorization: Bearer <api key>")

    def _counted_key(self, request: Request) -> str:
        """The idempotency key, after counting this POST under it, whatever becomes of it."""
        key = request.headers.get("idempotency-key", "")
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            message = f"send an Idempotency-Key header of 1 to {MAX_KEY_LENGTH} characters"
            raise RefusedError(400, "idempotency_key_missing", message)
        with self._store.transaction():
            self._store.count_post(key)
        return key

    def _refuse_clash(self, known: str | None, fingerprint: str) -> None:
        if known not in {None, fingerprint}:
            message = "this Idempotency-Key was used for another request"
            raise RefusedError(422, "idempotency_key_reused", message)

    async def _meet_outage(self, request: Request) -> None:
        """Before anything is read or done: refuse, or hang until the client leaves."""
        if self._faults.on.unavailable:
            raise RefusedError(503, "unavailable", "the provider is unavailable")
        if self._faults.on.hang:
            await never_answer(request)

    async def _meet_delay(self) -> None:
        if self._faults.on.latency_seconds:
            await asyncio.sleep(self._faults.on.latency_seconds)
        self._meet_error("error_rate_before")

    def _meet_error(self, name: str) -> None:
        if self._faults.draw(name):
            raise RefusedError(500, "internal_error", "something went wrong at the provider")

    def _log_answer(
        self, request: Request, payload: dict[str, object], key: str, answer: Answer, *, replayed: bool
    ) -> None:
        log(
            "request_answered",
            path=request.url.path,
            reference=payload["reference"],
            idempotency_key=key,
            amount=payload["amount"],
            status=answer.status,
            replayed=replayed,
        )


def traceparent_of(request: Request) -> str | None:
    given = request.headers.get("traceparent", "")
    return given if TRACEPARENT.fullmatch(given) else None


def fingerprint_of(path: str, payload: dict[str, object]) -> str:
    """Equal for equal JSON values, whatever the order of their members and the white space."""
    return sha256(f"{path} {json.dumps(payload, sort_keys=True)}".encode()).hexdigest()
