"""A hot path's counter and histogram tell what prometheus-client's own would."""

import prometheus_client
import pytest
from chassis.fast.metrics import Counter, Histogram
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

BUCKETS = (0.005, 0.1, 1, 10)
KINDS = st.sampled_from(["a", "b"])
OBSERVED = st.lists(st.tuples(KINDS, st.sampled_from(BUCKETS) | st.floats(0, 20)))


def told_by(registry: CollectorRegistry) -> tuple[str, str, str, list[Sample]]:
    (family,) = registry.collect()
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return family.name, family.type, family.documentation, samples


@given(OBSERVED)
def test_a_histogram_tells_what_the_library_s_own_would(observed: list[tuple[str, float]]) -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    ours = Histogram("time_seconds", "Time.", ["kind"], buckets=BUCKETS, registry=registries[0])
    theirs = prometheus_client.Histogram("time_seconds", "Time.", ["kind"], buckets=BUCKETS, registry=registries[1])
    for kind, value in observed:
        ours.labels(kind).observe(value)
        theirs.labels(kind).observe(value)
    assert told_by(registries[0]) == told_by(registries[1])


@given(st.lists(KINDS))
def test_a_counter_tells_what_the_library_s_own_would(counted: list[str]) -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    ours = Counter("requests", "Requests.", ["kind"], registry=registries[0])
    theirs = prometheus_client.Counter("requests", "Requests.", ["kind"], registry=registries[1])
    for kind in counted:
        ours.labels(kind).inc()
        theirs.labels(kind).inc()
    assert told_by(registries[0]) == told_by(registries[1])


def test_a_name_that_is_taken_is_refused() -> None:
    registry = CollectorRegistry()
    Histogram("time_seconds", "Time.", [], buckets=BUCKETS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Histogram("time_seconds", "Time.", [], buckets=BUCKETS, registry=registry)
