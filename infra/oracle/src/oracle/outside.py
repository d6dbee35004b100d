"""Reading what is not ours: the provider's ledger, the mailbox and the customer's endpoint, a page at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any

import aiohttp

from oracle.rows import Attempt, Charge, Message, Refund
from oracle.snapshots import CONNECT_SECONDS, READ_SECONDS, reason
from oracle.sources import NoVerdict, Sources

ASKED_AT_ONCE = 1000
"""Ids in one request: 40 KiB, under the simulators' limit of 64 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEvent:
    """A webhook of the provider's, about a charge or a refund."""

    event_id: str
    type: str
    reference: str
    is_acknowledged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the provider has about some payments and refunds."""

    charges: Sequence[Charge]
    refunds: Sequence[Refund]
    events: Sequence[LedgerEvent]


class Outside:
    """Each method raises `NoVerdict` when it cannot read what it is to read."""

    def __init__(self, session: aiohttp.ClientSession, sources: Sources) -> None:
        self._session = session
        self._provider = _Source("the provider's ledger", sources.provider_url)
        self._mailbox = _Source("the mailbox", sources.mailbox_url)
        self._customer = _Source("the customer's endpoint", sources.customer_url)

    async def ledger(self, references: Sequence[str]) -> Ledger:
        """What is about these payments and refunds."""
        charges, refunds, events = list[Charge](), list[Refund](), list[LedgerEvent]()
        async for body in self._search(self._provider, "ledger/search", "references", references):
            charges += _read(self._provider, body["charges"], _charge)
            refunds += _read(self._provider, body["refunds"], _refund)
            events += _read(self._provider, body["events"], _ledger_event)
        return Ledger(charges=charges, refunds=refunds, events=events)

    async def messages(self, event_ids: Sequence[str]) -> list[Message]:
        """The copies of these mails, in the order of arrival."""
        found = list[Message]()
        async for body in self._search(self._mailbox, "messages/search", "local_parts", event_ids):
            found += _read(self._mailbox, body, _message)
        return found

    async def attempts(self, webhook_ids: Sequence[str]) -> list[Attempt]:
        """The verified attempts at these deliveries, in the order of arrival; none without a customer's URL."""
        found = list[Attempt]()
        if self._customer.url:
            async for body in self._search(self._customer, "received/search", "webhook_ids", webhook_ids):
                found += _read(self._customer, body, _attempt)
        return found

    def totals(self) -> list[Awaitable[dict[str, int]]]:
        """How many charges, refunds, events, messages and attempts there are: a part from each source."""
        paths = ((self._provider, "ledger"), (self._mailbox, "messages"), (self._customer, "received"))
        return [self._total(source, f"{path}/totals") for source, path in paths if source.url]

    async def _total(self, source: "_Source", path: str) -> dict[str, int]:
        [totals] = _read(source, [await self._get(source, path)], dict)
        return {name: int(number) for name, number in totals.items()}

    async def charge_pages(self) -> AsyncIterator[list[Charge]]:
        async for rows in self._pages(self._provider, "ledger/charges"):
            yield _read(self._provider, rows, _charge)

    async def refund_pages(self) -> AsyncIterator[list[Refund]]:
        async for rows in self._pages(self._provider, "ledger/refunds"):
            yield _read(self._provider, rows, _refund)

    async def event_pages(self) -> AsyncIterator[list[LedgerEvent]]:
        async for rows in self._pages(self._provider, "ledger/events"):
            yield _read(self._provider, rows, _ledger_event)

    async def message_pages(self) -> AsyncIterator[list[Message]]:
        async for rows in self._pages(self._mailbox, "messages"):
            yield _read(self._mailbox, rows, _message)

    async def attempt_pages(self) -> AsyncIterator[list[Attempt]]:
        async for rows in self._pages(self._customer, "received"):
            yield _read(self._customer, [row for row in rows if row["verified"]], _attempt)

    async def _search(self, source: "_Source", path: str, name: str, ids: Sequence[str]) -> AsyncIterator[Any]:
        for asked in batched(ids, ASKED_AT_ONCE, strict=False):
            yield await self._ask(source, "POST", path, json={name: asked})

    async def _pages(self, source: "_Source", path: str) -> AsyncIterator[list[Any]]:
        """All rows, in the order in which they were written."""
        after = 0
        while source.url and (rows := await self._get(source, path, after=after, limit=ASKED_AT_ONCE)):
            yield rows
            after = rows[-1]["seq"] if "seq" in rows[-1] else rows[-1]["id"]

    async def _get(self, source: "_Source", path: str, **parameters: int) -> Any:
        return await self._ask(source, "GET", path, params=parameters)

    async def _ask(self, source: "_Source", method: str, path: str, **options: Any) -> Any:
        try:
            url = f"{source.url.rstrip('/')}/{path}"
            async with self._session.request(method, url, raise_for_status=True, **options) as response:
                return await response.json()
        except aiohttp.ClientResponseError as error:
            raise NoVerdict(f"cannot read {source.name} at {source.url}: it answered {error.status}") from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NoVerdict(f"cannot read {source.name} at {source.url}: {reason(error)}") from error


@asynccontextmanager
async def open_outside(sources: Sources) -> AsyncIterator[Outside]:
    timeout = aiohttp.ClientTimeout(READ_SECONDS, connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Outside(session, sources)


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    url: str


def _read[R](source: _Source, rows: Sequence[Any], parse: Callable[[Any], R]) -> list[R]:
    try:
        return [parse(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise NoVerdict(f"cannot read {source.name} at {source.url}: its answer has another shape") from error


def _taken(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _charge(row: Any) -> Charge:
    return Charge(**_taken(row, "id", "reference", "status", "amount", "currency", "requests"))


def _refund(row: Any) -> Refund:
    return Refund(**_taken(row, "id", "reference", "charge_id", "charge_reference", "status", "amount", "currency"))


def _ledger_event(row: Any) -> LedgerEvent:
    return LedgerEvent(**_taken(row, "event_id", "type", "reference"), is_acknowledged=row["acknowledged"])


def _message(row: Any) -> Message:
    return Message(
        **_taken(row, "message_id", "subject", "text"),
        number=row["id"],
        to=tuple(row["to"]),
        received_at=datetime.fromisoformat(row["received_at"]),
    )


def _attempt(row: Any) -> Attempt:
    status = row["status"]
    return Attempt(
        **_taken(row, "webhook_id", "body"),
        number=row["id"],
        is_accepted=status is not None and 200 <= status < 300,  # noqa: PLR2004  the 2xx range
        received_at=datetime.fromisoformat(row["received_at"]),
    )


def event_id_of(message_id: str) -> str:
    """The local part of `<event id@domain>`."""
    return message_id.strip("<>").partition("@")[0]
