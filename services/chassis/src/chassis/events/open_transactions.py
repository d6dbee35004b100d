"""Measures the oldest open transaction of the service's database, which may hold vacuum back.

While a transaction is open, PostgreSQL keeps the row versions that the transaction could still read. The tables of jobs
and events change all the time, so these tables and their indexes grow. Each database has exactly one leading relay (the
relay that publishes), so this relay measures the age of the oldest transaction.

The database role of the service's processes may not read the start time of another role's transaction. But each open
transaction holds a lock on its own id, and the role may read these locks. So the measured age is the time since this
process first saw the transaction.
"""

import math
import time
from collections.abc import Callable, Collection

import asyncpg
from prometheus_client import Gauge

from chassis.events.outbox import STATEMENTS

oldest_seconds = Gauge(
    "database_oldest_transaction_seconds",
    "Seconds since the leading relay first saw the oldest open transaction of the database.",
    ["database"],
)

MEASURE_SECONDS = 15.0
"""The seconds between two measurements. A measured age may be too low by this time. The alert fires only at an age of
five minutes, so this error does not matter.
"""


class OpenTransactions:
    """The open transactions of one database, each with the time at which it was seen first."""

    def __init__(self, database: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gauge = oldest_seconds.labels(database)
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._measured_at = -math.inf

    async def measure(self, connection: asyncpg.Connection) -> None:
        """Measure the age of the oldest open transaction, unless the last measurement was less than `MEASURE_SECONDS`
        ago.
        """
        if self._clock() - self._measured_at >= MEASURE_SECONDS:
            self._measured_at = self._clock()
            self.note(await connection.fetchval(STATEMENTS["open_transactions"]))

    def note(self, transactions: Collection[str]) -> None:
        """Note which transactions are open now, and set the gauge to the age of the oldest one."""
        now = self._clock()
        self._seen = {transaction: self._seen.get(transaction, now) for transaction in transactions}
        self._gauge.set(now - min(self._seen.values(), default=now))

    def forget(self) -> None:
        """Report an age of 0 from now on, because another relay leads."""
        self._seen, self._measured_at = {}, -math.inf
        self._gauge.set(0)
