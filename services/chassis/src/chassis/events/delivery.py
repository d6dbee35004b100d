"""Delivers events: the handler's effects and the event's inbox row commit in one transaction. After the commit, the
stream entry is acknowledged to Redis, so that it is not delivered again. A dead event is stored in the table
`dead_event` before the acknowledgement. An entry that is not acknowledged stays pending and is delivered again.

`chassis.events.consumer` decides when each entry is delivered.
"""

import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from prometheus_client import Counter, Histogram

from chassis.errors import HoldfastError, PoolExhausted
from chassis.events.group import ConsumerGroup, Entry
from chassis.events.inbox import DRIVER_STATEMENTS, STATEMENTS, Kinds, Received, Undeliverable
from chassis.events.outbox import Event
from chassis.fast.contextmanager import contextmanager
from chassis.logging import bind, canonical_line, debugging_for, get_logger, redact
from chassis.pooling import Database, Session, after_commit
from chassis.telemetry import SpanKind, record_failure, span

log = get_logger(__name__)

consumed = Counter("messaging_consumed", "Deliveries that ended, by outcome.", ["stream", "type", "outcome"])
process_seconds = Histogram(
    "messaging_process_duration_seconds",
    "Time from reading an event to the end of its transaction.",
    ["stream", "type"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

type Outcome = Literal["handled", "seen", "skipped", "failed", "postponed", "dead"]
# A service passes a mapping from payload classes to handlers. Python's type system cannot express that a handler takes
# an instance of the class to which it is mapped, so the payload's type is Any.
type Handler = Callable[[Session, Received[Any]], Awaitable[None]]

_MAX_REASON_LENGTH = 2000


class Deliveries:
    """Delivers events to the `handlers` of a consumer group. An event whose delivery fails `max_deliveries` times is
    dead.

    A delivery that fails because the database is unreachable or busy has the outcome `postponed`. The event did not
    cause such a failure, so the attempt is not counted.
    """

    def __init__(
        self,
        database: Database,
        group: ConsumerGroup,
        handlers: Mapping[type[Event], Handler],
        *,
        max_deliveries: int,
    ) -> None:
        self._database = database
        self._group = group
        self._handlers = handlers
        self._kinds = Kinds(handlers)
        self._max_deliveries = max_deliveries

    async def read(self, entry: Entry) -> Received[Event] | None:
        """The event of an entry. If the event has no handler, acknowledge the entry and return None. If the event is
        unreadable, also store it as dead.
        """
        try:
            received = self._kinds.parse(self._group.name, entry.text)
        except Undeliverable as error:
            await self._bury(entry, "unreadable", str(error))
            return None
        if received is None:
            await self._acknowledge(entry, "other", "skipped")
        return received

    async def is_spent(self, entry: Entry) -> bool:
        """Whether a pending entry has used up its delivery attempts. The method stores such an entry as a dead event,
        and acknowledges it.

        `deliver` does the same when the last attempt of an entry fails. So if an entry without remaining attempts is
        still pending, the process ended during the last attempt.
        """
        if entry.deliveries < self._max_deliveries:
            return False
        reason = f"it was delivered {self._max_deliveries} times, and no delivery ended"
        await self._bury(entry, "unreadable", reason)
        return True

    async def deliver(self, entry: Entry, received: Received[Event]) -> Outcome:
        """Call the handler and acknowledge the entry. If the outcome is `failed` or `postponed`, the entry stays
        pending instead.
        """
        with self._observed(entry, received) as record:
            outcome, error = await self._handle(entry, received)
            record(outcome, error)
        kind = received.payload.options.type
        if outcome in ("failed", "postponed"):
            consumed.labels(entry.stream, kind, outcome).inc()
        elif outcome == "dead":
            await self._bury(entry, kind, f"{type(error).__name__}: {error}")
        else:
            await self._acknowledge(entry, kind, outcome)
        return outcome

    async def deliver_together(self, events: Sequence[tuple[Entry, Received[Event]]]) -> bool:
        """Call the handlers one after the other in one transaction, and acknowledge the entries together. Returns False
        if the transaction failed. The caller then delivers each event alone.

        Each event has a separate span. The event's metrics and its canonical line (the one log line that sums up the
        delivery) are recorded after the commit.
        """
        outcomes: list[Outcome] = []
        try:
            async with self._database.transaction() as session:
                for entry, received in events:
                    with self._observed(entry, received) as record:
                        outcome = await self._handle_in(session, received)
                        if session.in_transaction():  # true if the handler used SQLAlchemy, and not only the driver
                            # The next handler must read the rows of this handler from the database.
                            await session.flush()
                            session.expunge_all()
                        after_commit(session, partial(record, outcome, None))
                    outcomes.append(outcome)
        except Exception:  # noqa: BLE001  the caller delivers each event alone, and records each event's error then
            return False
        await self._group.acknowledge(entry for entry, _ in events)
        for (entry, received), counted in zip(events, outcomes, strict=True):
            consumed.labels(entry.stream, received.payload.options.type, counted).inc()
        return True

    @contextmanager
    def _observed(
        self, entry: Entry, received: Received[Event]
    ) -> Generator[Callable[[Outcome, Exception | None], None]]:
        """Run the block inside the event's span, with the event's fields on each log line. The block gets a function
        that records the outcome in the metrics, on the span and on the canonical line (the one log line that sums up
        the delivery).
        """
        kind = received.payload.options.type
        started = time.perf_counter()
        with (
            span(
                f"process {kind}",
                kind=SpanKind.CONSUMER,
                traceparent=received.traceparent,
                attributes=lambda: self._attributes(entry, received),
            ) as current,
            debugging_for(received.debug),
            bind(stream=entry.stream, event_type=kind, event_id=str(received.event_id)),
            canonical_line() as line,
        ):

            def record(outcome: Outcome, error: Exception | None) -> None:
                elapsed = time.perf_counter() - started
                process_seconds.labels(entry.stream, kind).observe(elapsed)
                line.update(outcome=outcome, deliveries=entry.deliveries, duration_ms=round(elapsed * 1000, 1))
                _write_line(error, line)
                if error is not None:
                    record_failure(current, error)

            log.debug(
                "event_received", aggregate_id=received.aggregate_id, aggregate_version=received.aggregate_version
            )
            yield record

    def _attributes(self, entry: Entry, received: Received[Event]) -> dict[str, str | int]:
        return {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.destination.name": entry.stream,
            "messaging.consumer.group.name": self._group.name,
            "messaging.message.id": str(received.event_id),
            "holdfast.event.deliveries": entry.deliveries,
        }

    async def _handle(self, entry: Entry, received: Received[Event]) -> tuple[Outcome, Exception | None]:
        try:
            async with self._database.transaction() as session:
                return await self._handle_in(session, received), None
        except Undeliverable as error:
            return "dead", error
        except PoolExhausted as error:
            return "postponed", error
        except Exception as error:  # noqa: BLE001  any error of a handler decides the outcome of the delivery
            return "dead" if entry.deliveries >= self._max_deliveries else "failed", error

    async def _handle_in(self, session: Session, received: Received[Event]) -> Literal["handled", "seen"]:
        """Call the handler in this transaction, unless an earlier transaction has handled the event."""
        receive = DRIVER_STATEMENTS["receive"]
        if not await session.fetch(receive, consumer=self._group.name, event_id=received.event_id):
            return "seen"
        await self._handlers[type(received.payload)](session, received)
        return "handled"

    async def _acknowledge(self, entry: Entry, kind: str, outcome: Outcome) -> None:
        if entry.dead_id is None:
            await self._group.acknowledge([entry])
        elif outcome != "dead":
            async with self._database.transaction() as session:
                await session.execute(STATEMENTS["forget_dead"], {"id": entry.dead_id})
        consumed.labels(entry.stream, kind, outcome).inc()

    async def _bury(self, entry: Entry, kind: str, reason: str) -> None:
        redacted = str(redact(reason))[:_MAX_REASON_LENGTH]
        values = {
            "consumer": self._group.name,
            "stream": entry.stream,
            "entry_id": entry.id,
            "event": entry.text,
            "reason": redacted,
        }
        async with self._database.transaction() as session:
            await session.execute(STATEMENTS["bury"], values)
        log.error("event_buried", stream=entry.stream, entry_id=entry.id, event_type=kind, reason=redacted)
        await self._acknowledge(entry, kind, "dead")


def _write_line(error: Exception | None, fields: Mapping[str, Any]) -> None:
    """Write the one log line of the delivery, with a traceback unless the error is a `HoldfastError`."""
    if error is None:
        log.info("event_processed", **fields)
    else:
        trace = None if isinstance(error, HoldfastError) else error
        log.warning("event_processed", **fields, error=f"{type(error).__name__}: {error}", exc_info=trace)
