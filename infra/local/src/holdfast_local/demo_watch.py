"""Watching the demo's orders from outside, as a client does, and telling of each change once."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from holdfast_local.demo_client import Delivery, DemoClient, OrderSeen
from holdfast_local.demo_script import SUBSCRIBER, ScriptedOrder, name_orders
from holdfast_local.errors import RunnerError
from holdfast_local.secrets import CLIENTS
from holdfast_local.supervisor import Change, Event

POLL_SECONDS = 0.25  # per client four reads a second: under half of what its limit gives back
_FINAL = {"confirmed": "green", "cancelled": "yellow"}


class Narrator:
    """Prints what happens: a line each, with the seconds since the demo began."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._tells_events = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def say(self, what: str, text: str, *, style: str = "bold") -> None:
        line = Text.assemble((f"{self.seconds:5.1f} s  ", "dim"), (f"{what:<11}", style), text)
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def telling_events(self) -> Iterator[None]:
        """Between start and stop, where a process that ends or comes back is news."""
        self._tells_events = True
        try:
            yield
        finally:
            self._tells_events = False

    def on_event(self, event: Event) -> None:
        if self._tells_events and event.change is not Change.STARTED:
            style = "red" if event.change is Change.CRASHED else "green"
            self.say(event.change, f"{event.program}, pid {event.pid}  {event.detail}".rstrip(), style=style)


async def poll(is_done: Callable[[], Awaitable[bool]], *, seconds: float, problem: Callable[[], str]) -> None:
    """Ask until the answer is yes; after `seconds` raise RunnerError with the problem as of then."""
    try:
        async with asyncio.timeout(seconds) as timer:
            while True:
                if await is_done():
                    return
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        if timer.expired():
            raise RunnerError(f"after {seconds:g} s: {problem()}") from None
        raise


class OrderWatch:
    """The orders that were placed, and what they came to as far as a look has shown."""

    def __init__(self, client: DemoClient, narrator: Narrator) -> None:
        self._client = client
        self._narrator = narrator
        self._placed: dict[str, ScriptedOrder] = {}
        self.outcomes: dict[int, str] = {}
        self.message_ids: list[str] = []
        self.deliveries: list[Delivery] = []

    def add(self, order_id: str, order: ScriptedOrder) -> None:
        self._placed[order_id] = order

    def id_of(self, order: ScriptedOrder) -> str:
        return next(order_id for order_id, placed in self._placed.items() if placed == order)

    def reopen(self, order: ScriptedOrder) -> None:
        """It is being cancelled: what it came to before is not its end."""
        self.outcomes.pop(order.number, None)

    def open_orders(self, client: str | None = None) -> list[ScriptedOrder]:
        """Those not known to be final: of one client, or all."""
        placed = [order for order in self._placed.values() if order.number not in self.outcomes]
        return [order for order in placed if client in {None, order.client}]

    async def look(self) -> None:
        """Ask for the orders of clients that have open ones, mails and deliveries; tell which became final."""
        self.message_ids = await self._client.read_message_ids()
        self.deliveries = await self._client.read_deliveries(SUBSCRIBER)
        news: defaultdict[tuple[str, str], list[ScriptedOrder]] = defaultdict(list)
        for client in CLIENTS:
            for seen in await self._news(client):
                order = self._placed[seen.id]
                self.outcomes[order.number] = seen.status
                news[seen.status, seen.reason or ""].append(order)
        for (status, reason), orders in news.items():
            why = f": {reason}" if reason else ""
            text = f"{name_orders(orders)}{why}; {len(self.message_ids)} mails so far"
            self._narrator.say(status, text, style=_FINAL[status])

    async def _news(self, client: str) -> list[OrderSeen]:
        """The client's orders that are final and were not before, the cancelled ones with their reason."""
        open_orders = self.open_orders(client)
        listed = await self._client.read_orders(client) if open_orders else []
        final = [seen for seen in listed if seen.status in _FINAL and self._placed[seen.id] in open_orders]
        return [await self._with_reason(client, seen) for seen in final]

    async def _with_reason(self, client: str, seen: OrderSeen) -> OrderSeen:
        if seen.status == "confirmed":
            return seen
        reason = (await self._client.read_order(client, seen.id)).reason  # a list does not have it
        return seen.model_copy(update={"reason": reason})
