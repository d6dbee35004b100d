"""Checks of headers about a request's body, for the public and the management port, before the body arrives."""

from collections.abc import Mapping

from chassis.errors import ApiError, ErrorCode

DECLARES_BODY = frozenset({b"content-length", b"content-encoding"})
_IDENTITY = frozenset({"", "identity"})


def check_encoding(headers: Mapping[bytes, str]) -> None:
    """Raise `ApiError` (415) for an encoded body. `headers` contains the headers in `DECLARES_BODY`."""
    if headers.get(b"content-encoding", "").strip().lower() not in _IDENTITY:
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the body without a Content-Encoding.")


def declares_more(headers: Mapping[bytes, str], max_bytes: int) -> bool:
    """Whether Content-Length is more than `max_bytes`. `headers` contains the headers in `DECLARES_BODY`."""
    return int(headers.get(b"content-length", "0")) > max_bytes
