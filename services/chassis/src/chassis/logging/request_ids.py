"""The id that connects the lines of a request."""

import re
import uuid
from contextvars import ContextVar

from chassis.logging.redaction import redact

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request's id, which a caller can quote. The id is in the answer, on every log line of the request and in its
calls to other services.
"""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id_from(header: str) -> str:
    """The caller's request id if it has only letters, digits and `._-`, or else a new id. Ids are logged, so other text
    is not accepted.
    """
    is_plain = _REQUEST_ID.fullmatch(header) and redact(header) == header  # a card number matches the pattern, too
    return header if is_plain else uuid.uuid4().hex
