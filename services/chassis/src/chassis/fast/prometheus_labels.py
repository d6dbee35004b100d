"""Replaces prometheus-client's look-up of a metric's child by its labels, which takes longer than to count.

Only for metrics whose labels have few values: each combination is remembered.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client.metrics import MetricWrapperBase


def remembered[M: MetricWrapperBase](metric: M) -> Callable[..., M]:
    """`metric.labels`, each of whose answers is remembered."""
    return cache(metric.labels)
