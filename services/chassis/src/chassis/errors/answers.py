"""The answer to an error: our JSON envelope (an object with `error` and `request_id`), or RFC 9457 (problem+json) if
the Accept header prefers that format.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from chassis.errors.catalogue import DOCUMENTATION_URL, ErrorCode
from chassis.errors.exceptions import ApiError

PROBLEM_JSON = "application/problem+json"


class Answer(NamedTuple):
    """An HTTP answer to an error."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def answer(
    error: ApiError, *, request_id: str, accept: Iterable[str] = (), documentation: str = DOCUMENTATION_URL
) -> Answer:
    """The answer to `error`, from a pure function. `accept` contains the values of the request's Accept headers."""
    spec, link = error.code.value, error.code.documentation_url(documentation)
    facts = {"code": error.code.name, "retryable": spec.retryable}
    details = [
        {"field": detail.field, "message": detail.message}
        | ({} if detail.received is None else {"received": detail.received})
        for detail in error.details
    ]
    kind = PROBLEM_JSON if wants_problem(accept) else "application/json"
    headers = {"Content-Type": kind, "Vary": "Accept", "X-Request-ID": request_id}
    if spec.retry_after is not None:
        seconds = spec.retry_after if error.retry_after is None else error.retry_after
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if error.code is ErrorCode.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if kind == PROBLEM_JSON:
        problem = {"type": link, "title": spec.message, "status": spec.status, "detail": error.message}
        return Answer(spec.status, headers, {**problem, **facts, "errors": details, "request_id": request_id})
    envelope = {**facts, "message": error.message, "details": details, "documentation_url": link}
    return Answer(spec.status, headers, {"error": envelope, "request_id": request_id})


def wants_problem(accept: Iterable[str]) -> bool:
    """Whether the Accept header (RFC 9110, 12.5.1) gives `application/problem+json` at least the weight of JSON."""
    weights = dict(sorted(_weights(accept), key=lambda found: found[1]))
    plain = next((weights[kind] for kind in ("application/json", "application/*", "*/*") if kind in weights), 0.0)
    return weights.get(PROBLEM_JSON, 0.0) >= max(plain, 0.001)


def _weights(accept: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Each media range with its weight (q). An unreadable q counts as 0."""
    for part in _BETWEEN_COMMAS.findall(",".join(accept)[:_MAX_ACCEPT]):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        q = next((value.strip() for name, _, value in (one.partition("=") for one in parameters) if name == "q"), "1")
        yield kind, float(q) if _WEIGHT.fullmatch(q) else 0.0


_MAX_ACCEPT = 2048
"""The largest number of characters of the Accept header that are parsed; the rest is ignored. A browser sends a tenth
of this number, and parsing 64 KiB would take 50 ms.
"""
# The quantifiers are possessive, and an unclosed quote extends to the end, so the pattern reads each character once.
_BETWEEN_COMMAS = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.?)*+"?)++', re.DOTALL)
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
