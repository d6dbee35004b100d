"""Checks of the headers that describe a request's body, for both ports. They refuse a body before it arrives."""

from collections.abc import Mapping

from chassis.errors import ApiError, ErrorCode

DECLARES_BODY = frozenset({b"content-length", b"content-encoding"})
_IDENTITY = frozenset({"", "identity"})


def check_encoding(headers: Mapping[bytes, str]) -> None:
    """Raise `ApiError` (415) for an encoded body. `headers` has those of `DECLARES_BODY`."""
    if headers.get(b"content-encoding", "").strip().lower() not in _IDENTITY:
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the body without a Content-Encoding.")


def declares_more(headers: Mapping[bytes, str], max_bytes: int) -> bool:
    """Whether Content-Length is more than `max_bytes`. `headers` has those of `DECLARES_BODY`."""
    return int(headers.get(b"content-length", "0")) > max_bytes
