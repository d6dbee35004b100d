"""Replaces prometheus-client's look-up of a metric's child, which is the metric for one combination of label values.
The look-up takes longer than the increment of a counter.

Use this module only for metrics whose labels have few values, because `remembered` caches a child for each combination
of values.
"""

from collections.abc import Callable
from functools import cache

from prometheus_client.metrics import MetricWrapperBase


def remembered[M: MetricWrapperBase](metric: M) -> Callable[..., M]:
    """A function like `metric.labels` that caches the child for each combination of label values."""
    return cache(metric.labels)
