"""The wait before another attempt. This module does no I/O."""

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

_DAY = 86_400.0

_MAX_EXPONENT = 32
"""The largest exponent: 2³² times any base delay is above every cap, and a much larger exponent would overflow a float.
"""


def full_jitter(n: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """Seconds before retry n = 0, 1, …: a random number between 0 and min(cap, base·2ⁿ).

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    return random() * min(cap, base * 2.0 ** min(n, _MAX_EXPONENT))


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """The seconds (0 to a day) that a Retry-After header asks for, or None if the header is missing or unreadable.

    The header holds a number of seconds or an HTTP date. `now` is Unix time in seconds.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), _DAY)
    try:
        date = parsedate_to_datetime(value)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _DAY)
