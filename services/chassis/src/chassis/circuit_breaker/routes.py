"""`/breakers` on a worker's management port: see them, and overrule one for a stated time.

The management port's guard asks for the token and writes down who changed what. It is this process that changes: the
other replicas have breakers of their own.
"""

from dataclasses import asdict
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from chassis.circuit_breaker import BreakerRegistry, Mode
from chassis.errors import ApiError, ErrorCode, ErrorDetail
from chassis.logging import put_on_canonical_line
from chassis.process.management import parse_body, shown

MAX_SECONDS = 86_400.0
"""A day: observing takes a day's traffic, and what has to hold for longer is a setting."""


class BreakerMode(BaseModel):
    """Who is to decide at one breaker, and for how many seconds: an hour unless it is said, none if automatic."""

    model_config = ConfigDict(extra="forbid")

    dependency: Annotated[str, Field(min_length=1, max_length=200)]
    operation: Annotated[str, Field(min_length=1, max_length=200)]
    mode: Mode
    seconds: Annotated[float, Field(ge=1, le=MAX_SECONDS)] = 3600.0


def routes(breakers: BreakerRegistry) -> list[BaseRoute]:
    """What `management_app` adds in a worker."""

    class Breakers(HTTPEndpoint):
        """Both methods at one route, so that the Allow header of a 405 names both."""

        async def get(self, _request: Request) -> Response:
            return JSONResponse([asdict(found) for found in breakers.snapshot()])

        async def put(self, request: Request) -> Response:
            asked = await parse_body(request, BreakerMode)
            breaker = breakers.find(asked.dependency, asked.operation)
            if breaker is None:
                known = ", ".join(f"{found.dependency}/{found.operation}" for found in breakers.snapshot()) or "none"
                message = f"No such breaker, or not called yet; there are: {known}."
                detail = ErrorDetail("operation", message, shown(f"{asked.dependency}/{asked.operation}"))
                raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail])
            before = breaker.snapshot()
            breaker.set_mode(asked.mode, seconds=asked.seconds)
            put_on_canonical_line(
                dependency=asked.dependency,
                operation=asked.operation,
                to=asked.mode,
                original=before.mode,
                seconds=asked.seconds,
            )
            return JSONResponse(asdict(breaker.snapshot()))

    return [Route("/breakers", Breakers)]
