"""Counters and histograms for what every request pays for: one call, where prometheus-client's take four and nine, and
a lock or two. An order makes nine of them.

They belong to one thread, that of the event loop, which also answers the scrapes. Where something is not that frequent,
or comes from several threads, use prometheus-client's; all are read in the same place.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from math import inf
from typing import Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class _Child[F: Metric](Protocol):
    def add_to(self, family: F, labels: Sequence[str]) -> None: ...


class ByLabels[C: _Child[Any], F: Metric](Collector):
    """A child for each combination of the labels' values, and the family that they are told in."""

    def __init__(
        self, labels: Sequence[str], child: Callable[[], C], family: Callable[[], F], registry: CollectorRegistry
    ) -> None:
        self.label_names = tuple(labels)
        self._child, self._family = child, family
        self._children: dict[tuple[str, ...], C] = {}
        registry.register(self)

    def labels(self, *values: str | int) -> C:
        """What is counted or observed under these values. Remember it: looking it up costs more than counting."""
        key = tuple(map(str, values))
        if key not in self._children:
            self._children[key] = self._child()
        return self._children[key]

    def describe(self) -> Iterator[F]:
        yield self._family()

    def collect(self) -> Iterator[F]:
        family = self._family()
        for labels, child in self._children.items():
            child.add_to(family, labels)
        yield family


class Counted:
    """How often under some labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        self.value += 1

    def add_to(self, family: CounterMetricFamily, labels: Sequence[str]) -> None:
        family.add_metric(labels, self.value)


class Counter(ByLabels[Counted, CounterMetricFamily]):
    """By `labels`; in Prometheus `_total` is added to its name."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        family = partial(CounterMetricFamily, name, documentation, labels=labels)
        super().__init__(labels, Counted, family, registry)


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


class Histogram(ByLabels[Observed, HistogramMetricFamily]):
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
        family = partial(HistogramMetricFamily, name, documentation, labels=labels)
        super().__init__(labels, partial(Observed, (*buckets, inf)), family, registry)
