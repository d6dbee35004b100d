"""Conditional reads: an answer carries the ETag of its bytes, and who has them already is answered 304 without them.

RFC 9110, sections 8.8.3 (ETag), 13.1.2 (If-None-Match) and 15.4.5 (304).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from chassis.app.api.middleware import Exchange

# A cache may keep the answer but has to ask before each use: without a word, browsers guess how long it is good.
_CACHE_CONTROL = "private, no-cache"
_NOT_MODIFIED = 304

# One entity tag, weak or strong; inside the quotes anything but a quote and controls (RFC 9110, section 8.8.3).
_TAG = re.compile(r'(?:W/)?("[!\x23-\x7e\x80-\xff]*")')

_ETAG_HEADER = {"description": "Changes whenever the body does.", "required": True, "schema": {"type": "string"}}

CONDITIONAL: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": _ETAG_HEADER}},
    _NOT_MODIFIED: {"description": "The caller has the current one.", "headers": {"ETag": _ETAG_HEADER}},
}
"""The OpenAPI responses of a route that says `conditional=True`."""

IF_NONE_MATCH: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "The ETag of an earlier answer: 304 without a body as long as it is the current one.",
            "schema": {"type": "string"},
        }
    ]
}
"""The same route's parameter in the document. The header has no wrong form: a text that is no tag matches no answer."""


def etag(body: bytes) -> str:
    """A strong validator: other bytes have another one."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def has_current(if_none_match: Iterable[str], tag: str) -> bool:
    """Whether the caller has what `tag` stands for, by its If-None-Match headers. Pure.

    `*` stands for any; tags are compared weakly, as this header asks, so a proxy that weakened ours does no harm.
    """
    fields = [field.strip() for field in if_none_match]
    return "*" in fields or any(tag in _TAG.findall(field) for field in fields)


def conditional(request: Request, body: bytes) -> Response:
    """The JSON `body` with its ETag, or 304 when the caller's If-None-Match names it."""
    if b"if-none-match" in Exchange.of(request.scope).asked:
        tag = etag(body)
        if has_current(request.headers.getlist("if-none-match"), tag):
            return Response(status_code=_NOT_MODIFIED, headers=_headers(tag))
    return _Tagged(body)


class _Tagged(Response):
    """A body with its tag. What is answered again and again is hashed, and its headers are written, once."""

    def init_headers(self, _headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [*_raw_headers_of(self.body)]


@lru_cache(maxsize=128)
def _raw_headers_of(body: bytes) -> Sequence[tuple[bytes, bytes]]:
    return Response(body, media_type="application/json", headers=_headers(etag(body))).raw_headers


def _headers(tag: str) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": _CACHE_CONTROL}
