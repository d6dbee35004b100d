"""Admission by backlog: an API refuses new work while the accepted work would take too long.

The backlog is a time: the units of work that are not done (orders, payments), divided by the rate at which units get
done. A unit may pass through several services. The service that accepts the unit measures the whole way, from its
acceptance to its end, so a queue in any of these services lengthens the backlog. The promise is a setting: the time
within which accepted work is done.

    new work is accepted ─────────────────────▶ refused, until the backlog is at 0.4 · promise
    backlog  0 ────── 0.4 · promise ─────────── 0.5 · promise ─────────── promise

A task of each process measures the backlog in the service's database, and requests use the latest measurement. All
replicas read the same database, so all replicas decide alike.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from chassis.config.settings import BacklogSettings
from chassis.errors import ApiError, ErrorCode
from chassis.pooling import Database, is_transient
from chassis.pooling.statements import DriverStatement
from chassis.process.background import supervised

backlog_seconds = Gauge("backlog_seconds", "Seconds that the accepted work takes at the measured rate.")
backlog_age = Gauge("backlog_oldest_age_seconds", "Seconds since the oldest unfinished unit of work was accepted.")
backlog_rate = Gauge("backlog_rate", "Units of work that get done per second, as last measured under load.")
refused = Counter("backlog_refused", "Requests refused because the accepted work takes too long.")

CLOSE_SHARE = 0.5
"""New work is refused when the backlog (the seconds that the accepted work takes) reaches this share of the promise
(the seconds within which accepted work is done). The backlog is only an estimate, and units overtake each other. With a
share of a half, the last accepted unit is done within the promise even if its work takes twice as long as estimated.
"""
REOPEN_SHARE = 0.4
"""After a refusal, new work is accepted again when the backlog is below this share of the promise. Without the gap
between `CLOSE_SHARE` and `REOPEN_SHARE`, an API would accept one request and refuse the next.
"""
BUSY_SHARE = 0.1
"""If the backlog is at least this share of the promise, work waits for capacity, so the number of units that get done
per second is the capacity. With a shorter backlog, this number only shows how many units arrive.
"""
SHORTEST_WINDOW, LONGEST_WINDOW = 5.0, 30.0
"""The shortest and the longest window, in seconds. A measurement counts the units that got done within the window. The
window covers the time for which work has waited, because only in this time was the whole capacity in use.
"""
EXCLUDED_PROMISES = 10
"""A unit of work (an order, a payment) no longer counts when it was accepted longer ago than this number times the
promise. Such a unit waits for an operator or for the end of an outage, and not for capacity.
"""
COUNTED_UNITS = 10_000
"""A measurement counts at most this many waiting units. The count takes a few milliseconds."""
IDLE_SECONDS, BUSY_SECONDS = 1.0, 0.25
"""Seconds between two measurements of the backlog: while no work waits for capacity, and while work waits. If ten times
as much work arrives as can be done, the backlog grows by about 2.5 seconds in 0.25 seconds.
"""
VALID_SECONDS = 15.0
"""No request is refused because of a measurement of the backlog that is older than this many seconds. A measurement
becomes so old only if the database cannot be reached, and then a request fails at its own statement.
"""
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""The shortest and the longest Retry-After of a refused request, in seconds. Within 5 seconds the backlog hardly
changes, and an estimate of more than a minute is unreliable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The state of the work at the time `at` (monotonic, in seconds): `waiting` units are not done, the oldest of them
    was accepted `oldest_age` seconds ago, and `done` units got done within the last `window` seconds.
    """

    at: float
    waiting: int
    done: int
    window: float
    oldest_age: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The backlog after a measurement. `rate` is the capacity in units per second, as far as it is known.

    `busy_since` is the time since which work has waited for capacity, or None. `is_stalled` is True if work waits, but
    less than `minimum_rate` gets done.
    """

    rate: float
    waiting: int = 0
    busy_since: float | None = None
    is_stalled: bool = False
    is_full: bool = False

    @property
    def seconds(self) -> float:
        """The seconds that the waiting units take."""
        return self.waiting / self.rate

    def window(self, now: float) -> float:
        """The seconds for which the next measurement counts the units that got done."""
        busy_for = math.inf if self.busy_since is None else now - self.busy_since
        return min(max(busy_for, SHORTEST_WINDOW), LONGEST_WINDOW)

    def then(self, found: Measurement, settings: BacklogSettings) -> "Backlog":
        """The backlog after another measurement.

        A measured rate above the known rate always replaces the known rate, because the capacity is at least the
        measured rate. A measured rate below the known rate counts only if work waited during the whole window:
        otherwise too little work may have arrived. If work waited and the measured rate is below `minimum_rate`, there
        is an outage. Then the known rate stays, because the work continues at this rate once the outage ends.
        """
        measured = found.done / found.window
        known = max(self.rate, settings.minimum_rate)
        was_busy = self.busy_since is not None and found.at - self.busy_since >= found.window
        is_stalled = was_busy and measured < settings.minimum_rate
        rate = measured if was_busy and not is_stalled else max(measured, known)
        seconds = found.waiting / rate
        is_busy = seconds >= BUSY_SHARE * settings.promise
        busy_since = found.at if self.busy_since is None else self.busy_since
        return Backlog(
            rate=rate,
            waiting=found.waiting,
            busy_since=busy_since if is_busy else None,
            is_stalled=is_stalled,
            is_full=seconds >= (REOPEN_SHARE if self.is_full else CLOSE_SHARE) * settings.promise,
        )

    def refuses(self, more: int, settings: BacklogSettings) -> bool:
        """Whether new work is refused after `more` units were accepted since the measurement."""
        return self.is_full or (self.waiting + more) / self.rate >= CLOSE_SHARE * settings.promise

    def retry_after(self, more: int, settings: BacklogSettings) -> float:
        """Seconds until the backlog is short enough to accept work again, if units continue to get done at `rate`."""
        if self.is_stalled:
            return MAX_RETRY_SECONDS
        seconds = (self.waiting + more) / self.rate - REOPEN_SHARE * settings.promise
        return min(max(seconds, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)


class Admission:
    """Measures the backlog in the background, and decides for each request whether its work is accepted.

    `statement` returns one row (`waiting`, `oldest_age`, `done`) and has three parameters: `window`, the seconds for
    which units that got done are counted; `excluded_age`, the age from which a unit does not count; and `limit`, the
    number up to which waiting units are counted. `current` returns the settings that are valid now; `clock` is
    monotonic, in seconds.
    """

    def __init__(
        self,
        database: Database,
        statement: DriverStatement,
        current: Callable[[], BacklogSettings],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._statement = statement
        self._current = current
        self._clock = clock
        self._sleep = sleep
        self._backlog = Backlog(rate=current().minimum_rate)
        self._measured_at = -math.inf
        self._accepted = 0  # the units that this process accepted since the latest measurement

    def refusal(self) -> ApiError | None:
        """None if a new unit of work is accepted; otherwise the error to raise (OVERLOADED), with a Retry-After.

        Handlers call this method neither for reads nor for the repetition of a request that was accepted before.
        """
        settings = self._current()
        is_valid = self._clock() - self._measured_at <= VALID_SECONDS
        if not is_valid or not self._backlog.refuses(self._accepted, settings):
            self._accepted += 1
            return None
        refused.inc()
        return ApiError(
            ErrorCode.OVERLOADED,
            "The accepted work takes too long already. The request was not accepted.",
            retry_after=self._backlog.retry_after(self._accepted, settings),
        )

    async def measure(self) -> None:
        """Measure the backlog once."""
        began, accepted = self._clock(), self._accepted
        window = self._backlog.window(began)
        excluded_age = EXCLUDED_PROMISES * self._current().promise
        values = {"window": window, "excluded_age": excluded_age, "limit": COUNTED_UNITS}
        async with self._database.read() as session:
            (row,) = await session.fetch(self._statement, **values)
        found = Measurement(at=began, window=window, **row)
        self._backlog = self._backlog.then(found, self._current())
        self._measured_at = self._clock()
        self._accepted -= accepted
        backlog_seconds.set(self._backlog.seconds)
        backlog_age.set(found.oldest_age)
        backlog_rate.set(self._backlog.rate)

    @asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Measure the backlog repeatedly while the `with` block runs."""
        async with supervised(self._measure_repeatedly, name="backlog", is_outage=is_transient):
            yield

    async def _measure_repeatedly(self) -> None:
        while True:
            await self.measure()
            await self._sleep(IDLE_SECONDS if self._backlog.busy_since is None else BUSY_SECONDS)
