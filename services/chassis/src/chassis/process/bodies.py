"""What a request's head declares of its body, for both ports: it is refused before any of the body arrives."""

from collections.abc import Mapping

from chassis.errors import ApiError, ErrorCode

DECLARES_BODY = frozenset({b"content-length", b"content-encoding"})
_IDENTITY = frozenset({"", "identity"})


def check_encoding(headers: Mapping[bytes, str]) -> None:
    """Raise `ApiError` (415) for a body that is encoded. `headers` has `DECLARES_BODY`."""
    if headers.get(b"content-encoding", "").strip().lower() not in _IDENTITY:
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "A body is taken as it is, without a Content-Encoding.")


def declares_more(headers: Mapping[bytes, str], max_bytes: int) -> bool:
    """Whether the body is longer than `max_bytes`, by the head. `headers` has `DECLARES_BODY`."""
    return int(headers.get(b"content-length", "0")) > max_bytes
