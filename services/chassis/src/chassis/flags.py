"""Feature flags: whether a feature is on, decided for each request.

A service declares its flags in its settings (`chassis.config.settings.flags`). An operator changes a flag in the
service's file, and the running processes apply the change (`chassis.process.reloading`).

    if is_on(live.current.flags.new_prices, caller.id):
        ...

A flag is on for the principals that its setting names, and for a share of all subjects. A subject is the id of a
principal, or of a smaller unit, such as an order. The same flag and subject always give the same answer, in every
process. A larger share adds subjects and removes none.
"""

import hashlib
from typing import Final

from opentelemetry import trace
from prometheus_client import Counter

from chassis.config.settings import Flag
from chassis.fast.prometheus_labels import remembered
from chassis.logging import put_on_canonical_line

_evaluations = remembered(
    Counter("feature_flag_evaluations", "Evaluations of feature flags, by result (on, off).", ["flag", "result"])
)

_HASHES: Final = 2**64  # the number of different values that 8 bytes have


def includes(flag: Flag, principal: str, subject: str) -> bool:
    """Whether the flag is on for the principal, or for the subject because the flag's share includes the subject.
    Unlike `is_on`, this function records nothing.
    """
    if principal in flag.principals:
        return True
    # The flag's name is part of the hash, so that two flags with small shares do not choose the same subjects.
    digest = hashlib.blake2b(f"{flag.name}:{subject}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < flag.share * _HASHES


def is_on(flag: Flag, principal: str, *, subject: str | None = None) -> bool:
    """Whether the flag is on for this request. The result is counted, and is recorded on the canonical log line (the
    one line that sums up the request) and on the current span.

    The flag's share is a share of subjects. The default subject is the principal. With a smaller subject, such as the
    id of an order, the flag can be on for some requests of a principal and off for others.
    """
    on = includes(flag, principal, principal if subject is None else subject)
    _evaluations(flag.name, "on" if on else "off").inc()
    put_on_canonical_line(**{f"flag_{flag.name}": on})
    trace.get_current_span().set_attribute(f"feature_flag.{flag.name}", on)
    return on
