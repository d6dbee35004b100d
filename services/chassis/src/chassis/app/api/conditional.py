"""Conditional reads: an answer carries an ETag, a hash of its bytes. A caller that sends the current ETag gets a 304
without a body.

This module implements RFC 9110, sections 8.8.3 (ETag), 13.1.2 (If-None-Match) and 15.4.5 (304).
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chassis.app.api.middleware import Exchange

# A client may store the answer, but must ask for a newer answer before each use. Without Cache-Control, a browser
# guesses how long it may use a stored answer.
_CACHE_CONTROL = "private, no-cache"
_NOT_MODIFIED = 304

# This pattern matches one entity tag, weak or strong. Any character except quotes and control characters may be inside
# the quotes (RFC 9110, section 8.8.3).
_TAG = re.compile(r'(?:W/)?("[!\x23-\x7e\x80-\xff]*")')

_ETAG_HEADER = {
    "description": "A hash of the body, which changes when the body changes.",
    "required": True,
    "schema": {"type": "string"},
}

CONDITIONAL: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": _ETAG_HEADER}},
    _NOT_MODIFIED: {"description": "The caller has the current answer already.", "headers": {"ETag": _ETAG_HEADER}},
}
"""The OpenAPI responses of a route with `conditional=True`."""

IF_NONE_MATCH: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "The ETag of an earlier answer. If this ETag is current, a 304 without a body is sent.",
            "schema": {"type": "string"},
        }
    ]
}
"""The OpenAPI parameter `If-None-Match` of a route with `conditional=True`. Every value is accepted: a text that is not
an entity tag matches no answer.
"""


def etag(body: bytes) -> str:
    """A strong entity tag, which is a hash of the body: different bodies have different tags."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def has_current(if_none_match: Iterable[str], tag: str) -> bool:
    """Whether the caller's If-None-Match headers contain `tag`. A pure function.

    `*` matches any tag. RFC 9110 prescribes a weak comparison for this header, so a tag that a proxy marked as weak
    (`W/`) still matches.
    """
    fields = [field.strip() for field in if_none_match]
    return "*" in fields or any(tag in _TAG.findall(field) for field in fields)


class ConditionalJson(Response):
    """An answer with the JSON `body` and its ETag, or a 304 when the caller's If-None-Match contains this ETag."""

    def __init__(self, body: bytes) -> None:
        self._tag = etag(body)
        super().__init__(body, media_type="application/json", headers=_headers(self._tag))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = (
            Headers(scope=scope).getlist("if-none-match")
            if b"if-none-match" in Exchange.of(scope).request_headers
            else []
        )
        if has_current(given, self._tag):
            await Response(status_code=_NOT_MODIFIED, headers=_headers(self._tag))(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _headers(tag: str) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": _CACHE_CONTROL}
