"""Webhooks in the Standard Webhooks format: signed, retried until a 2xx, resumed after a restart.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import asyncio
import base64
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import SplitResult
from uuid import uuid4

import h11

from simulators.faults import Switchboard
from simulators.payment_provider.charging import Charging
from simulators.payment_provider.store import Event, Store
from simulators.payment_provider.switches import ProviderSwitches
from simulators.process import log

MAX_IN_FLIGHT = 32
"""Attempts at once; more wait, so that a receiver that hangs cannot exhaust our sockets."""


def signature(secret: bytes, *, event_id: str, sent_at: int, body: str) -> str:
    """The `webhook-signature` of one attempt; `sent_at` in Unix seconds."""
    digest = hmac.digest(secret, f"{event_id}.{sent_at}.{body}".encode(), "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def forgery(event: Event) -> Event:
    """The event as an attacker would send it: the opposite news under an id of its own."""
    body = json.loads(event.body)
    kind, verdict = event.type.split(".")
    body["id"] = f"evt_{uuid4().hex}"
    body["type"] = f"{kind}.{'succeeded' if verdict == 'failed' else 'failed'}"
    return replace(event, id=body["id"], type=body["type"], body=json.dumps(body), traceparent=None)


async def post(url: SplitResult, headers: list[tuple[str, str]], body: bytes) -> int:
    """POST on a connection of its own, follow no redirect, and return the status.

    Raises OSError or h11.RemoteProtocolError; the caller sets the time limit.
    """
    secure = url.scheme == "https"
    reader, writer = await asyncio.open_connection(
        url.hostname, url.port or (443 if secure else 80), ssl=secure or None
    )
    try:
        connection = h11.Connection(our_role=h11.CLIENT)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        request = h11.Request(method="POST", target=target, headers=headers)
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(part) or b"")
        while not isinstance(event := connection.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
        return event.status_code
    finally:
        writer.close()


class Clerk:
    """Settles what is due and delivers what is queued. It sleeps until the next of them, or until `wake()`."""

    def __init__(
        self,
        store: Store,
        charging: Charging,
        faults: Switchboard[ProviderSwitches],
        *,
        url: SplitResult,
        secret: bytes,
        schedule_seconds: Sequence[float],
        timeout_seconds: float,
    ) -> None:
        self._store = store
        self._charging = charging
        self._faults = faults
        self._url = url
        self._secret = secret
        self._schedule_seconds = schedule_seconds
        self._timeout_seconds = timeout_seconds
        self._in_flight: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as deliveries:
            while True:
                self._woken.clear()
                now = time.time()
                with self._store.transaction():
                    self._charging.settle_due(now)
                waiting = [
                    event for event in self._store.waiting_events(2 * MAX_IN_FLIGHT) if event.id not in self._in_flight
                ]
                due = [event for event in waiting if event.next_attempt_at is None or event.next_attempt_at <= now]
                started = due[: MAX_IN_FLIGHT - len(self._in_flight)]
                for event in started:
                    self._in_flight.add(event.id)
                    deliveries.create_task(self._deliver(event))
                await self._sleep(now, [] if len(started) < len(due) else waiting[len(due) :])

    async def _sleep(self, now: float, later: list[Event]) -> None:
        """Until a transfer settles, an event of `later` is due, or someone wakes us."""
        times = [self._store.next_settlement(), later[0].next_attempt_at if later else None]
        soonest = min((at for at in times if at is not None), default=None)
        try:
            async with asyncio.timeout(None if soonest is None else max(0.0, soonest - now)):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _deliver(self, event: Event) -> None:
        """Make one attempt. Only its end moves the event on, so a crash in it means that it is made again."""
        try:
            if event.attempts == 0 and self._faults.draw("webhook_forged_rate"):
                await self._attempt(forgery(event), secrets.token_bytes(24))
            if await self._counted_attempt(event):
                with self._store.transaction():
                    self._store.acknowledge(event.id)
                if self._faults.draw("webhook_duplicate_rate"):
                    await self._counted_attempt(event)
            else:
                wait = self._schedule_seconds[min(event.attempts, len(self._schedule_seconds) - 1)]
                with self._store.transaction():
                    self._store.postpone(event.id, time.time() + wait)
        finally:
            self._in_flight.discard(event.id)
            self.wake()

    async def _counted_attempt(self, event: Event) -> bool:
        with self._store.transaction():
            self._store.count_attempt(event.id)
        return await self._attempt(event, self._secret)

    async def _attempt(self, event: Event, secret: bytes) -> bool:
        """Whether the receiver answered 2xx in time."""
        started = time.monotonic()
        outcome: dict[str, object]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status = await post(self._url, self._headers(event, secret), event.body.encode())
            outcome = {"status": status}
        except (OSError, h11.RemoteProtocolError) as error:
            status, outcome = 0, {"error": f"{type(error).__name__}: {error}".removesuffix(": ")}
        elapsed = round((time.monotonic() - started) * 1000, 1)
        log(
            "webhook_attempted" if secret is self._secret else "forged_webhook_sent",
            event_id=event.id,
            type=event.type,
            reference=event.reference,
            duration_ms=elapsed,
            **outcome,
        )
        return 200 <= status < 300  # noqa: PLR2004  2xx

    def _headers(self, event: Event, secret: bytes) -> list[tuple[str, str]]:
        sent_at = int(time.time() + self._faults.on.clock_skew_seconds)
        trace = [("traceparent", event.traceparent)] if event.traceparent else []
        return [
            *trace,
            ("Host", self._url.netloc.rpartition("@")[2]),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(event.body.encode()))),
            ("Connection", "close"),
            ("User-Agent", "payment-provider-webhooks/1"),
            ("webhook-id", event.id),
            ("webhook-timestamp", str(sent_at)),
            ("webhook-signature", signature(secret, event_id=event.id, sent_at=sent_at, body=event.body)),
        ]
