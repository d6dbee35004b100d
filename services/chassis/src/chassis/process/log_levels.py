"""`/log-levels` on the management port: see the levels, and change one logger's for a stated time.

The management port's guard asks for the token and writes down who changed what.
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
        asked = await parse_body(request, LogLevel)
        try:
            change = levels().change(asked.logger, asked.level, seconds=asked.seconds)
        except CannotChange as error:
            detail = ErrorDetail("logger", str(error), shown(asked.logger))
            raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail]) from error
        put_on_canonical_line(logger=change.logger, to=change.level, original=change.original, seconds=asked.seconds)
        return JSONResponse(asdict(change))


def routes() -> list[Route]:
    return [Route("/log-levels", LogLevels)]
