"""Bulkhead: a limit on concurrent calls to one dependency, so that one slow dependency cannot exhaust the process.

A call beyond the limit is refused at once and does not queue: a queue in front of a slow dependency only adds waiting.
"""

from prometheus_client import Gauge

from chassis.errors import BulkheadFull

in_flight_calls = Gauge("bulkhead_in_flight", "Calls to the dependency that are under way.", ["dependency"])


class Bulkhead:
    """Wrap each call in `with bulkhead:`. Entering the block raises `BulkheadFull` when `limit` calls are under way."""

    def __init__(self, dependency: str, *, limit: int) -> None:
        self.dependency = dependency
        self.limit = limit
        self.in_flight = 0
        in_flight_calls.labels(dependency).set_function(lambda: self.in_flight)

    def __enter__(self) -> None:
        if self.in_flight >= self.limit:
            raise BulkheadFull(self.dependency, self.limit)
        self.in_flight += 1

    def __exit__(self, *_error: object) -> None:
        self.in_flight -= 1
