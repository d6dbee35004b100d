"""The history of a run, which a file keeps outside of all systems: what clients were answered, and what was cut short.

A line is a JSON object. `{"client", "key", "order": {…}}` is an answer about an order: `key` is the Idempotency-Key
where the request had one, `order` the answer's body. `{"interrupted", "since", "until"}` says what interrupted the
sending of mails and webhooks, and when (RFC 3339).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from pathlib import Path
from typing import Any

from oracle.databases import Database
from oracle.findings import Finding, Offender, plural
from oracle.invariants.orders import differences
from oracle.sources import NoVerdict
from oracle.terms import Interruption

_AT_ONCE = 500
_FOLLOWS: Mapping[str, frozenset[str]] = {
    "pending": frozenset({"pending", "confirmed", "cancelling", "cancelled"}),
    "confirmed": frozenset({"confirmed", "cancelling", "cancelled"}),
    "cancelling": frozenset({"cancelling", "cancelled"}),
    "cancelled": frozenset({"cancelled"}),
}
"""Where an order may be by now that had that status: it never goes backwards."""
_ORDERS = """
    SELECT id::text, client_id AS client, idempotency_key AS key, status, amount, currency,
        (
            SELECT array_agg(product_id || ' ' || quantity || ' ' || unit_price ORDER BY position)
            FROM order_line WHERE order_id = orders.id
        ) AS lines
    FROM orders WHERE id::text = ANY ($1::text[])
"""


@dataclass(frozen=True, slots=True)
class History:
    """A file, and its size when the databases were opened: what was answered since may be younger than they are."""

    file: Path | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A 2xx about an order. What is None was not known, or not part of the request or the answer."""

    client: str | None
    key: str | None
    order_id: str
    status: str
    amount: int
    currency: str
    lines: tuple[str, ...] | None


def read_interruptions(history: Path | None) -> tuple[Interruption, ...]:
    """Raises `NoVerdict` when the file cannot be read."""
    return tuple(_read(history, _interruption))


def read_answers(history: Path | None, *, size: int | None = None) -> Iterator[Answer]:
    """Of the first `size` bytes. Raises `NoVerdict` when the file cannot be read."""
    return _read(history, _answer, size=size)


def size_of(history: Path | None) -> int:
    """In bytes: what was answered before this moment. Raises `NoVerdict` when there is no such file."""
    try:
        return history.stat().st_size if history else 0
    except OSError as error:
        raise NoVerdict(f"cannot read the history {history}: {error!r}") from error


async def judge_history(orders: Database, history: History) -> Finding:
    """Whatever a client was answered is still so: the order is there, as it was shown, and not behind what was said."""
    finding, number = Finding("every acknowledged order is there, as it was answered"), 0
    for answers in batched(read_answers(history.file, size=history.size), _AT_ONCE, strict=False):
        rows = await orders.fetch(_ORDERS, list({answer.order_id for answer in answers}))
        found = {row["id"]: {**row, "lines": tuple(row["lines"] or ())} for row in rows}
        finding.add(problem for answer in answers for problem in _problems(answer, found.get(answer.order_id)))
        number += len(answers)
    finding.counts = plural(number, "answer") if history.file else "no history was given"
    return finding


def _problems(answer: Answer, order: Mapping[str, object] | None) -> Iterator[Offender]:
    if order is None:
        yield Offender(answer.order_id, f"was acknowledged as {answer.status} and is not there")
        return
    told = {"client": answer.client, "key": answer.key, "amount": answer.amount, "currency": answer.currency}
    wanted = {name: value for name, value in {**told, "lines": answer.lines}.items() if value is not None}
    if other := differences(order, wanted):
        yield Offender(answer.order_id, f"was answered otherwise: {other}")
    if order["status"] not in _FOLLOWS.get(answer.status, ()):
        yield Offender(answer.order_id, f"was answered as {answer.status}, and is {order['status']}")


def _line(line: Mapping[str, object]) -> str:
    return f"{line['product_id']} {line['quantity']} {line['unit_price']}"


def _interruption(line: Mapping[str, Any]) -> Interruption | None:
    if "interrupted" not in line:
        return None
    since, until = datetime.fromisoformat(line["since"]), datetime.fromisoformat(line["until"])
    return Interruption(since=since, until=until, cause=line["interrupted"])


def _answer(line: Mapping[str, Any]) -> Answer | None:
    if "order" not in line:
        return None
    order = line["order"]
    lines = order.get("lines")
    return Answer(
        client=line.get("client"),
        key=line.get("key"),
        order_id=order["id"],
        status=order["status"],
        amount=order["amount"],
        currency=order["currency"],
        lines=None if lines is None else tuple(map(_line, lines)),
    )


def _read[R](
    history: Path | None, parse: Callable[[Mapping[str, Any]], R | None], *, size: int | None = None
) -> Iterator[R]:
    """One line at a time: a load test's file is long."""
    if history is None:
        return
    try:
        with history.open("rb") as lines:
            while (line := lines.readline()) and (size is None or lines.tell() <= size):
                if (read := parse(json.loads(line))) is not None:
                    yield read
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoVerdict(f"cannot read the history {history}: {error!r}") from error
