"""Replaces prometheus-client's look-up of the child of a metric by its labels, which takes longer than the count.

Use it only for metrics whose labels have few values, because it caches every combination.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client.metrics import MetricWrapperBase


def remembered[M: MetricWrapperBase](metric: M) -> Callable[..., M]:
    """`metric.labels` with a cache of its results."""
    return cache(metric.labels)
