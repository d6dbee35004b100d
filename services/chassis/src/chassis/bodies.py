"""What a request's head declares of its body, for both ports: it is refused before any of the body is read."""

from collections.abc import Mapping

from chassis.errors import ApiError, ErrorCode

DECLARES_BODY = frozenset({b"content-length", b"content-encoding"})
_IDENTITY = frozenset({"", "identity"})


def check_declared(headers: Mapping[bytes, str], max_bytes: int) -> None:
    """Raise `ApiError` (413, 415) for a body that is too long or encoded. `headers` has `DECLARES_BODY`."""
    if headers.get(b"content-encoding", "").strip().lower() not in _IDENTITY:
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "A body is taken as it is, without a Content-Encoding.")
    if int(headers.get(b"content-length", "0")) > max_bytes:
        raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
