"""`/log-levels` on the management port: an operator reads the levels, and changes one logger's level for a stated time.

`ManagementGuard` checks the token and logs each change.
"""

from dataclasses import asdict
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chassis.config.settings import Level
from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.logging import levels, put_on_canonical_line
from chassis.logging.levels import MAX_SECONDS, CannotChange
from chassis.process.management import parse_body, shown


class LogLevel(BaseModel):
    """A new level for a logger, and the seconds for which it is valid."""

    model_config = ConfigDict(extra="forbid")

    logger: Annotated[str, Field(min_length=1, max_length=200)]
    level: Level
    seconds: Annotated[float, Field(ge=1, le=MAX_SECONDS)]


class LogLevels(HTTPEndpoint):
    """One endpoint serves GET and PUT, so that the Allow header of a 405 answer names both methods."""

    async def get(self, _request: Request) -> Response:
        return JSONResponse({"level": levels().base, "changes": [asdict(change) for change in levels().changes()]})

    async def put(self, request: Request) -> Response:
        wanted = await parse_body(request, LogLevel)
        try:
            change = levels().change(wanted.logger, wanted.level, seconds=wanted.seconds)
        except CannotChange as error:
            detail = ErrorDetail("logger", str(error), shown(wanted.logger))
            raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail]) from error
        put_on_canonical_line(logger=change.logger, to=change.level, original=change.original, seconds=wanted.seconds)
        return JSONResponse(asdict(change))


def routes() -> list[Route]:
    return [Route("/log-levels", LogLevels)]
