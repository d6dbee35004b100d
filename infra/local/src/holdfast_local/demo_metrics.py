"""The platform's own metrics, summed over its processes, from the text that each serves on /metrics."""

import math
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

type Labels = frozenset[tuple[str, str]]

_GROWING = frozenset({"counter", "histogram"})


class Metrics:
    """Samples by name and labels. Names are as in the text: counters end in `_total`."""

    def __init__(self) -> None:
        self._samples: defaultdict[str, defaultdict[Labels, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, text: str, *, of_ended_process: bool = False) -> None:
        """Add what a process served. Of one that has ended only what it counted stands: it is in no state any more."""
        for family in text_string_to_metric_families(text):
            if of_ended_process and family.type not in _GROWING:
                continue
            for sample in family.samples:
                self._samples[sample.name][frozenset(sample.labels.items())] += sample.value

    def total(self, name: str, **labels: str) -> int:
        """The sum of all samples that have these labels; 0 when there is none."""
        wanted = labels.items()
        return round(sum(value for found, value in self._samples[name].items() if wanted <= found))

    def by(self, name: str, label: str, **labels: str) -> dict[str, int]:
        """The sums by the values of one label, without those that are 0, the largest first."""
        values = {value for found in self._samples[name] for key, value in found if key == label}
        totals = {value: self.total(name, **labels, **{label: value}) for value in values}
        return dict(sorted(((v, n) for v, n in totals.items() if n), key=lambda item: (-item[1], item[0])))

    def quantile(self, histogram: str, q: float, **labels: str) -> float:
        """The upper bound of the bucket that holds quantile `q` (0 to 1) of a histogram; NaN without observations."""
        buckets = {float(bound): count for bound, count in self.by(f"{histogram}_bucket", "le", **labels).items()}
        rank = q * self.total(f"{histogram}_count", **labels)
        return min((bound for bound, count in buckets.items() if count >= rank), default=math.nan)
