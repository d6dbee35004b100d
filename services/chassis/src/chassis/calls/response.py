"""A dependency's answer, and the error for each status other than 2xx. This module does no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from pydantic import BaseModel, ValidationError

from chassis.errors import DependencyFailed, DependencyRejected, DependencyUnavailable
from chassis.retries import parse_retry_after

_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class Response:
    """A 2xx answer with its whole body. `degraded` means that a fallback made the answer, not the dependency."""

    dependency: str
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    degraded: bool = False

    def json(self) -> object:
        """The parsed body. Raises `DependencyFailed` when the body is not JSON."""
        try:
            parsed: object = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise DependencyFailed(self.dependency, "the answer is not JSON", status=self.status) from error
        return parsed

    def parse[M: BaseModel](self, model: type[M]) -> M:
        """The body as a `model`. Raises `DependencyFailed` when the body does not fit the model."""
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            raise DependencyFailed(self.dependency, f"the answer is no {model.__name__}", status=self.status) from error


def accept(response: Response, *, now: float) -> Response:
    """The response if its status is 2xx; raises the matching `DependencyError` for other statuses. `now` is Unix time.

    A redirect is not followed and counts as a failure.
    """
    dependency, status = response.dependency, response.status
    if 200 <= status < 300:  # noqa: PLR2004  these are the 2xx statuses
        return response
    retry_after = parse_retry_after(response.headers.get("Retry-After"), now=now)
    if status == _TOO_MANY_REQUESTS:
        raise DependencyUnavailable(dependency, "answered 429", status=status, retry_after=retry_after)
    if 400 <= status < 500:  # noqa: PLR2004  these are the 4xx statuses
        raise DependencyRejected(dependency, status, response.body)
    raise DependencyFailed(dependency, f"answered {status}", status=status, retry_after=retry_after)
