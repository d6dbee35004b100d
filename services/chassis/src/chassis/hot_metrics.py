"""A histogram for what every request pays for: an observation is one call, where prometheus-client's takes nine and two
locks. An order makes six.

It belongs to one thread, that of the event loop, which also answers the scrapes. Where an observation is not that
frequent, or comes from several threads, use prometheus-client's; they are read in the same place.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Observed:
    """What was observed under some labels."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds  # with infinity
        self._counts = [0] * len(bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """As Prometheus wants it: a bucket counts what the smaller ones do, too."""
        names = map(floatToGoString, self._bounds)
        family.add_metric(labels, list(zip(names, accumulate(self._counts), strict=True)), self._sum)


class Histogram(Collector):
    """By `labels`, with `buckets`: their upper bounds, ascending, without infinity."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.label_names = tuple(labels)
        self._described = name, documentation
        self._bounds = (*buckets, inf)
        self._observed: dict[tuple[str, ...], Observed] = {}
        registry.register(self)

    def labels(self, *values: str | int) -> Observed:
        """What is observed under these values. Remember it: looking it up costs more than observing."""
        key = tuple(map(str, values))
        if key not in self._observed:
            self._observed[key] = Observed(self._bounds)
        return self._observed[key]

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = self._family()
        for labels, observed in self._observed.items():
            observed.add_to(family, labels)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(*self._described, labels=self.label_names)
