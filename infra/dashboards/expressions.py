"""The forms that most expressions have. Each keeps to the services that the reader chose."""

_CHOSEN = 'service=~"$service"'
_WINDOW = "[$__rate_interval]"


def rate(counter: str, *by: str, where: str = "") -> str:
    """Per second, summed over processes: `rate("jobs_processed_total", "job")`."""
    return f"sum{_by(by)} (rate({_select(counter, where)}{_WINDOW}))"


def quantile(share: float, histogram: str, *by: str, where: str = "") -> str:
    """The time within which that share of the observations lies, estimated from a histogram's buckets."""
    return (
        f"histogram_quantile({share}, sum{_by(('le', *by))} (rate({_select(f'{histogram}_bucket', where)}{_WINDOW})))"
    )


def share(counter: str, good: str, *by: str) -> str:
    """The part of a counter's increase that `good` selects, from 0 to 1."""
    return f"{rate(counter, *by, where=good)} / {rate(counter, *by)}"


def share_or_zero(counter: str, bad: str, *by: str) -> str:
    """The same of what may never have happened yet: then its series do not exist, which is no share of 0."""
    return f"({rate(counter, *by, where=bad)} or 0 * {rate(counter, *by)}) / {rate(counter, *by)}"


def highest(gauge: str, *by: str, where: str = "") -> str:
    """Where each process measures the same, as all workers of a service do with its queue, the highest of them."""
    return f"max{_by(by)} ({_select(gauge, where)})"


def lowest(gauge: str, *by: str, where: str = "") -> str:
    return f"min{_by(by)} ({_select(gauge, where)})"


def total(gauge: str, *by: str, where: str = "") -> str:
    """Where each process has a part, the sum of them."""
    return f"sum{_by(by)} ({_select(gauge, where)})"


def _select(name: str, where: str) -> str:
    return f"{name}{{{', '.join(filter(None, (_CHOSEN, where)))}}}"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
