"""Checks of the headers that describe a request's body. The public and the management port run these checks before the
body arrives.
"""

from collections.abc import Mapping

from chassis.errors import ApiError, ErrorCode

DECLARES_BODY = frozenset({b"content-length", b"content-encoding"})
_IDENTITY = frozenset({"", "identity"})


def check_encoding(headers: Mapping[bytes, str]) -> None:
    """Raise `ApiError` (415) for a body with a Content-Encoding. `headers` has the request's headers that
    `DECLARES_BODY` names.
    """
    if headers.get(b"content-encoding", "").strip().lower() not in _IDENTITY:
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the body without a Content-Encoding.")


def declares_more(headers: Mapping[bytes, str], max_bytes: int) -> bool:
    """Whether Content-Length is above `max_bytes`. `headers` has the request's headers that `DECLARES_BODY` names."""
    return int(headers.get(b"content-length", "0")) > max_bytes
