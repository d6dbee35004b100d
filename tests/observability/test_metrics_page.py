"""docs/reference/metrics.md against what all processes expose after the demo's story."""

from collections import defaultdict
from collections.abc import Iterator

import pytest
from metric_labels import ABSENT, bound_of
from metrics_page import all_metrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from story import Seen

THEIR_OWN = ("process_", "python_")
"""prometheus-client's."""
OF_PROMETHEUS = {"le"}
KNOWN = {metric.name: metric for metric in all_metrics()}


def samples(text: str) -> Iterator[tuple[str, Sample]]:
    """Each sample and the name of its metric as the code has it."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = family.name.removesuffix("_created")
            yield (name if name in KNOWN else family.name), sample


@pytest.mark.timeout(900)
async def test_every_metric_that_a_process_exposes_is_on_the_page(seen: Seen) -> None:
    exposed = {name for text in seen.texts.values() for name, _ in samples(text)}
    assert {name for name in exposed - KNOWN.keys() if not name.startswith(THEIR_OWN)} == set()


@pytest.mark.timeout(900)
async def test_every_metric_on_the_page_was_there_or_is_listed_with_its_occasion(seen: Seen) -> None:
    exposed = {name for text in seen.texts.values() for name, _ in samples(text)}
    assert KNOWN.keys() - exposed <= ABSENT.keys()
    assert ABSENT.keys() <= KNOWN.keys()


@pytest.mark.timeout(900)
async def test_labels_have_the_values_that_the_page_allows(seen: Seen) -> None:
    for process, text in seen.texts.items():
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for name, sample in samples(text):
            if name in KNOWN:
                for label in sample.labels.keys() - OF_PROMETHEUS:
                    found[name, label].add(sample.labels[label])
        for (name, label), values in found.items():
            bound = bound_of(name, label)
            if bound.values:
                assert values <= set(bound.values), f"{process}: {name}, {label}"
            else:
                assert len(values) <= bound.at_most, f"{process}: {name}, {label}: {values}"


@pytest.mark.parametrize("metric", KNOWN.values(), ids=KNOWN)
def test_names_say_their_unit_and_labels_are_bounded(metric: object) -> None:
    assert metric.help.endswith(".")
    is_time = metric.help.startswith(("Time ", "How long", "Duration", "Seconds", "Age "))
    is_time = is_time and metric.kind != "counter"
    assert metric.name.endswith("_seconds") == (is_time or metric.name == "job_queue_drain_seconds"), metric.name
    assert metric.kind == "counter" or not metric.exposed.endswith("_total")
    for label in metric.labels:
        bound_of(metric.name, label)
