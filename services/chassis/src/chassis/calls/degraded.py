"""Degraded answers: a fallback answers in place of a dependency, and the answer is marked.

A fallback may replace a read. A call that moves money has no fallback: it fails, and its job runs again.
"""

from typing import Literal

from prometheus_client import Counter

from chassis.logging import put_on_canonical_line

type Cause = Literal["failure", "flag"]
"""The reason for a degraded answer: the dependency failed, or an operator's flag switched the call off."""

_answers = Counter(
    "degraded_answers",
    "Answers that a fallback made in place of a dependency, by cause (failure, flag).",
    ["dependency", "operation", "cause"],
)


def record_degraded(dependency: str, operation: str, cause: Cause) -> None:
    """Count the answer, and mark the canonical log line (the one line that sums up the current request or job)."""
    _answers.labels(dependency, operation, cause).inc()
    put_on_canonical_line(degraded=dependency, degraded_cause=cause)
