"""Replaces prometheus-client's look-up of a metric's child by its labels. The look-up takes longer than the increment.

Use it only for metrics whose labels have few values, because it caches every combination.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client.metrics import MetricWrapperBase


def remembered[M: MetricWrapperBase](metric: M) -> Callable[..., M]:
    """`metric.labels` with a cache of its results."""
    return cache(metric.labels)
