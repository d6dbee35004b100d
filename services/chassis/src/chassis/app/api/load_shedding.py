"""Load shedding: a process holds only so many requests at once, and keeps the last places for the critical ones.

    under way  0 ─────────────── sheddable_share ──────── default_share ──── max_concurrent_requests
    taken in     any request                    not sheddable       critical only            none

Whoever is refused is told at once: a queue in front of a busy process only adds waiting to slowness. The classes are
Google's: https://sre.google/sre-book/handling-overload/.
"""

from collections.abc import Callable
from typing import Literal, Self, get_args

from prometheus_client import Counter

from chassis.config.settings import HttpSettings
from chassis.errors import ApiError, ErrorCode

type Criticality = Literal["critical", "default", "sheddable"]

load_shed = Counter("load_shed", "Requests refused because the process had enough to do.", ["criticality"])
for criticality in get_args(Criticality.__value__):
    load_shed.labels(criticality)  # from the start, or the first one that is counted is no increase


def has_place(in_flight: int, criticality: Criticality, limits: HttpSettings) -> bool:
    """Whether one more request of this class is taken in while `in_flight` are under way; an idle process takes any."""
    share = 1.0
    if criticality != "critical":
        share = limits.default_share if criticality == "default" else limits.sheddable_share
    return in_flight < max(1, int(limits.max_concurrent_requests * share))


class LoadShedder:
    """Counts the requests of one process; `current` returns the limits that are valid now."""

    def __init__(self, current: Callable[[], HttpSettings]) -> None:
        self._current = current
        self.in_flight = 0

    def place(self, criticality: Criticality) -> "Place":
        """The block has one of the places; raises `ApiError` (OVERLOADED) when there is none for its class."""
        return Place(self, criticality, self._current())


class Place:
    """One of the places: given back by `give_back`, or at the end of the block."""

    __slots__ = ("_criticality", "_is_taken", "_limits", "_shedder")

    def __init__(self, shedder: LoadShedder, criticality: Criticality, limits: HttpSettings) -> None:
        self._shedder = shedder
        self._criticality = criticality
        self._limits = limits
        self._is_taken = False

    def __enter__(self) -> Self:
        if not has_place(self._shedder.in_flight, self._criticality, self._limits):
            load_shed.labels(self._criticality).inc()
            raise ApiError(ErrorCode.OVERLOADED)
        self._shedder.in_flight += 1
        self._is_taken = True
        return self

    def __exit__(self, *_error: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Before the end of the block, once the work is done: how long a client takes for its answer is its own."""
        if self._is_taken:
            self._is_taken = False
            self._shedder.in_flight -= 1
