"""A hot path's histogram tells what prometheus-client's own would."""

import prometheus_client
import pytest
from chassis.hot_metrics import Histogram
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

BUCKETS = (0.005, 0.1, 1, 10)
OBSERVED = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(BUCKETS) | st.floats(0, 20)))


def samples_of(registry: CollectorRegistry) -> list[Sample]:
    (family,) = registry.collect()
    assert (family.name, family.type, family.documentation) == ("time_seconds", "histogram", "Time.")
    return [sample for sample in family.samples if not sample.name.endswith("_created")]


@given(OBSERVED)
def test_it_tells_what_the_library_s_own_would(observed: list[tuple[str, float]]) -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    ours = Histogram("time_seconds", "Time.", ["kind"], buckets=BUCKETS, registry=registries[0])
    theirs = prometheus_client.Histogram("time_seconds", "Time.", ["kind"], buckets=BUCKETS, registry=registries[1])
    for kind, value in observed:
        ours.labels(kind).observe(value)
        theirs.labels(kind).observe(value)
    assert samples_of(registries[0]) == samples_of(registries[1])


def test_a_name_that_is_taken_is_refused() -> None:
    registry = CollectorRegistry()
    Histogram("time_seconds", "Time.", [], buckets=BUCKETS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Histogram("time_seconds", "Time.", [], buckets=BUCKETS, registry=registry)
