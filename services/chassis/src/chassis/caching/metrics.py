"""The metrics and the DEBUG log line of a cache's reads, and the reads' fields in the request's canonical log line (the
one line that sums up the request).
"""

from typing import Literal

from prometheus_client import Counter, Histogram

from chassis.caching.entries import Entry, Freshness
from chassis.logging import add_to_canonical_line, get_logger

log = get_logger(__name__)

requests = Counter(
    "cache_requests",
    "Reads by result (hit, miss, stale, negative, bypass). `error` counts failures of Redis and unreadable values.",
    ["cache", "result"],
)
recompute_seconds = Histogram(
    "cache_recompute_duration_seconds",
    "Time that the origin took to return a value or to fail.",
    ["cache"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
staleness_seconds = Histogram(
    "cache_staleness_seconds",
    "Age of the values that the cache returned. The age counts from the start of the load.",
    ["cache"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 90, 120, 300, 600),
)

type Result = Literal["hit", "negative", "stale", "miss", "bypass", "error"]

_RESULTS: tuple[Result, ...] = ("hit", "negative", "stale", "miss", "bypass", "error")


class CacheMetrics:
    """Counts the reads of the cache `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counters = {result: requests.labels(name, result) for result in _RESULTS}
        self._staleness = staleness_seconds.labels(name)

    def count_hit(self, freshness: Freshness, entry: Entry, *, now: float) -> None:
        """Count a read that the process's memory or Redis answered."""
        is_stale = freshness == "stale"
        self._count("stale" if is_stale else "negative" if freshness == "negative" else "hit")
        self._staleness.observe(entry.age(now))
        if is_stale:
            add_to_canonical_line(cache_hits=1, cache_stale=1)
        else:
            add_to_canonical_line(cache_hits=1)

    def count_miss(self, key: str, result: Literal["miss", "bypass"]) -> None:
        """Count a read that needs a load. The load stores its value in Redis (`miss`) or bypasses Redis (`bypass`)."""
        self._count(result)
        add_to_canonical_line(cache_misses=1)
        log.debug("cache_missed", cache=self._name, key=key, result=result)

    def count_error(self) -> None:
        """Count a failure of Redis, or a stored value that cannot be read. `count_hit` or `count_miss` counts the read
        itself.
        """
        self._count("error")

    def _count(self, result: Result) -> None:
        self._counters[result].inc()
