"""A story for a screen, which it needs 100 columns of at most, or for a program."""

import json
from datetime import datetime
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from oracle.story.telling import Entry, Story, masked, money

WIDTH = 100
"""Columns."""

_STYLES = {"transition": "bold", "breaker": "yellow"}
_MINUTE = 60.0


def show(console: Console, story: Story) -> None:
    """What was ordered, and a line per entry: seconds since it was placed, how long it took, where, and what."""
    console.print(_title(story), soft_wrap=True)
    console.print(Text(f"{_columns('after', 'took', 'service')}what", "dim"), soft_wrap=True)
    for entry in story.entries:
        after = (entry.at - story.order.created_at).total_seconds()
        columns = _columns(f"{after:,.3f}", _duration(entry.took), entry.service)
        style = _STYLES.get(entry.kind) or ("red" if entry.is_bad else "")
        for line in wrap(entry.what, min(console.width, WIDTH) - len(columns)):
            console.print(Text.assemble((columns, "dim"), (line, style)), soft_wrap=True)
            columns = " " * len(columns)


def _columns(after: str, took: str, service: str) -> str:
    return f"{after:>9}  {took:>9}  {service:<14}  "


def as_json(story: Story) -> str:
    """`{order: {…}, settled_after, entries: [{at, after, took, service, kind, what, is_bad, details}]}`, in seconds."""
    order = story.order
    document = {
        "order": {
            "id": order.id,
            "client_id": order.client_id,
            "customer_email": masked(order.customer_email),
            "payment_id": order.payment_id,
            "status": order.status,
            "reason": order.reason,
            "amount": order.amount,
            "paid_amount": order.paid_amount,
            "currency": order.currency,
            "created_at": order.created_at,
        },
        "settled_after": story.settled_after,
        "entries": [_entry(entry, order.created_at) for entry in story.entries],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, default=_written)


def _entry(entry: Entry, placed_at: datetime) -> dict[str, object]:
    return {
        "at": entry.at,
        "after": (entry.at - placed_at).total_seconds(),
        "took": entry.took,
        "service": entry.service,
        "kind": entry.kind,
        "what": entry.what,
        "is_bad": entry.is_bad,
        "details": entry.details,
    }


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value)} is not for JSON")


def _title(story: Story) -> Text:
    order = story.order
    paid = "paid" if order.paid_amount else "nothing paid"
    placed = order.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    how = "still on its way" if story.settled_after is None else f"settled after {_duration(story.settled_after)}"
    return Text.assemble(
        f"order {order.id}: ",
        (order.status, "bold"),
        f"\n{money(order.amount, order.currency)}, {paid}; {order.client_id}, {masked(order.customer_email)}",
        f"\nplaced {placed} UTC, {how}\n",
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    return f"{seconds // _MINUTE:.0f}:{seconds % _MINUTE:02.0f} min"
