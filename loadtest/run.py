"""What the users of one run share."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

from scenario import Arrival, Scenario


@dataclass(slots=True, kw_only=True)
class Run:
    """The seed decides who comes when and what they buy, not the orders' keys, which are new each time."""

    scenario: Scenario
    keys: Sequence[str] = field(repr=False)
    seed: int
    seconds: float
    rate: float = 1.0
    """How many times as many users come as the scenario says."""
    orders: int
    """How many may still be placed."""
    ingest: str | None = None
    """Base URL of webhook-ingest."""
    webhook_secret: bytes = field(default=b"", repr=False)
    provider: str | None = None
    """Base URL of the simulated payment provider."""
    history: Path | None = None
    """Where each answer about an order is noted, as `oracle.history` reads it."""
    id: str = field(default_factory=lambda: uuid4().hex[:12])
    began: float = field(default_factory=perf_counter)
    arrival: Arrival | None = None
    """Whose user is being made."""
    came: Counter[str] = field(default_factory=Counter)
    """Users by their class."""
    trouble: str = ""
    """Why the run could not be made as its scenario says."""
    given_up: int = 0
    placed: int = 0
    settled: list[float] = field(default_factory=list)
    """Seconds, of each order that ended as its card and its cancellation say."""
    settled_at: list[float] = field(default_factory=list)
    """Seconds from the start of the run, for each of these orders."""
    refused_at: list[float] = field(default_factory=list)
    """Seconds from the start of the run, for each 503."""
    first_requests: list[tuple[float, float]] = field(default_factory=list)
    """Of each user, not of abusers: when it was meant to come, and how long its first answer took from then."""
    webhook_seconds: list[float] = field(default_factory=list)

    def elapsed(self) -> float:
        return perf_counter() - self.began

    def may_place(self) -> bool:
        self.orders -= 1
        return self.orders >= 0

    def note(self, order: dict[str, Any], *, key: str | None = None) -> None:
        """Append an answer. Whose key it was only the platform knows: the line names no client."""
        if self.history is not None:
            with self.history.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"client": None, "key": key, "order": order}) + "\n")

    def key_of(self, number: int, *, is_abuser: bool) -> str:
        """A user's key. An abuser is one client, and nobody else's."""
        if "Abuser" not in self.scenario.users:
            return self.keys[number % len(self.keys)]
        return self.keys[0] if is_abuser else self.keys[1 + number % (len(self.keys) - 1)]
