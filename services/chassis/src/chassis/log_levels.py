"""`/log-levels` on the management port: see the levels, and change one logger's for a stated time.

The management port's guard asks for the token and writes down who changed what.
"""

from dataclasses import asdict
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.logging import levels, put_on_canonical_line, shown_back
from chassis.logging.levels import MAX_SECONDS, CannotChange
from chassis.settings import Level

_MAX_BODY_BYTES = 1024
_MAX_SHOWN = 100  # characters of a wrong value that are shown back


class LogLevel(BaseModel):
    """What a logger is to write, and for how many seconds."""

    model_config = ConfigDict(extra="forbid")

    logger: Annotated[str, Field(min_length=1, max_length=200)]
    level: Level
    seconds: Annotated[float, Field(ge=1, le=MAX_SECONDS)]


class LogLevels(HTTPEndpoint):
    """Both methods at one route, so that the Allow header of a 405 names both."""

    async def get(self, _request: Request) -> Response:
        return JSONResponse({"level": levels().base, "changes": [asdict(change) for change in levels().changes()]})

    async def put(self, request: Request) -> Response:
        asked = _parse(await _read(request))
        try:
            change = levels().change(asked.logger, asked.level, seconds=asked.seconds)
        except CannotChange as error:
            detail = ErrorDetail("logger", str(error), _shown(asked.logger))
            raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail]) from error
        put_on_canonical_line(logger=change.logger, to=change.level, original=change.original, seconds=asked.seconds)
        return JSONResponse(asdict(change))


def routes() -> list[Route]:
    return [Route("/log-levels", LogLevels)]


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
    return bytes(body)


def _parse(body: bytes) -> LogLevel:
    try:
        return LogLevel.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    if any(problem["type"] == "json_invalid" for problem in problems):
        raise ApiError(ErrorCode.MALFORMED_REQUEST, "The body is not valid JSON.")
    details = [
        ErrorDetail(
            _shown(".".join(map(str, problem["loc"]))) or "body",
            problem["msg"],
            # What an unknown field holds nobody knows: a misspelt `tokn` may be one.
            None if problem["type"] == "extra_forbidden" else _shown(problem["input"]),
        )
        for problem in problems
    ]
    raise ApiError(ErrorCode.VALIDATION_FAILED, details=details)


def _shown(value: object) -> str | None:
    """A wrong value as it was given; a whole object says nothing that the field's name does not."""
    if not isinstance(value, str | int | float):
        return None
    return shown_back(str(value), _MAX_SHOWN)
