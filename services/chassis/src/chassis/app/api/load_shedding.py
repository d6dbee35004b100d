"""Load shedding: a process answers a bounded number of requests at once, and reserves its last slots for critical
requests. A slot is the capacity for one request. The number of requests in flight decides which requests are admitted:

    in flight  0 ─────────────── sheddable_share ──────── default_share ──── max_concurrent_requests
    admitted     any request                    not sheddable       critical only            none

A request that gets no slot is refused at once: a queue in front of a busy process only adds waiting time. The classes
of criticality come from Google's book on site reliability: https://sre.google/sre-book/handling-overload/.
"""

from collections.abc import Callable
from typing import Literal, Self, get_args

from prometheus_client import Counter

from chassis.config.settings import HttpSettings
from chassis.errors import ApiError, ErrorCode

type Criticality = Literal["critical", "default", "sheddable"]

load_shed = Counter("load_shed", "Requests refused because no slot was left for their criticality.", ["criticality"])
for criticality in get_args(Criticality.__value__):
    # This call exports the value 0, so that an alert sees the first refusal as an increase.
    load_shed.labels(criticality)


def has_slot(in_flight: int, criticality: Criticality, limits: HttpSettings) -> bool:
    """Whether a process with `in_flight` requests admits one more request of this class. An idle process admits a
    request of any class.
    """
    share = 1.0
    if criticality != "critical":
        share = limits.default_share if criticality == "default" else limits.sheddable_share
    return in_flight < max(1, int(limits.max_concurrent_requests * share))


class LoadShedder:
    """Counts the requests that one process is answering. `current` returns the limits that are valid now."""

    def __init__(self, current: Callable[[], HttpSettings]) -> None:
        self._current = current
        self.in_flight = 0

    def slot(self, criticality: Criticality) -> "Slot":
        """A slot for a `with` block. Entering the block raises `ApiError` (OVERLOADED) when no slot is left for this
        class.
        """
        return Slot(self, criticality, self._current())


class Slot:
    """Capacity for one request. A `with` block takes the slot on entry, and releases the slot on exit unless `release`
    was called before.
    """

    __slots__ = ("_criticality", "_is_taken", "_limits", "_shedder")

    def __init__(self, shedder: LoadShedder, criticality: Criticality, limits: HttpSettings) -> None:
        self._shedder = shedder
        self._criticality = criticality
        self._limits = limits
        self._is_taken = False

    def __enter__(self) -> Self:
        if not has_slot(self._shedder.in_flight, self._criticality, self._limits):
            load_shed.labels(self._criticality).inc()
            raise ApiError(ErrorCode.OVERLOADED)
        self._shedder.in_flight += 1
        self._is_taken = True
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Free the slot. The middleware calls this function when the answer begins. The work is done by then, so a
        client that reads slowly holds no slot.
        """
        if self._is_taken:
            self._is_taken = False
            self._shedder.in_flight -= 1
