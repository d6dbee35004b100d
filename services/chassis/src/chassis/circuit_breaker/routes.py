"""`/breakers` on the management port of a process: an operator lists the breakers, and overrules one breaker for
a limited time.

The management port's guard checks the token and logs each change. A change affects this process only: each replica has
its own breakers.
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
"""The longest time for which an operator can set a mode: one day, so that the mode `observe_only` can count the calls
of a whole day. A change that must last longer belongs in the settings.
"""


class BreakerMode(BaseModel):
    """The mode that an operator sets for one breaker, for `seconds`. The mode `automatic` has no end and ignores
    `seconds`.
    """

    model_config = ConfigDict(extra="forbid")

    dependency: Annotated[str, Field(min_length=1, max_length=200)]
    operation: Annotated[str, Field(min_length=1, max_length=200)]
    mode: Mode
    seconds: Annotated[float, Field(ge=1, le=MAX_SECONDS)] = 3600.0


def routes(breakers: BreakerRegistry) -> list[BaseRoute]:
    """The routes that a process adds to its management port."""

    class Breakers(HTTPEndpoint):
        """GET and PUT share one route, so that the Allow header of a 405 answer names both methods."""

        async def get(self, _request: Request) -> Response:
            return JSONResponse([asdict(found) for found in breakers.snapshot()])

        async def put(self, request: Request) -> Response:
            wanted = await parse_body(request, BreakerMode)
            breaker = breakers.find(wanted.dependency, wanted.operation)
            if breaker is None:
                known = ", ".join(f"{found.dependency}/{found.operation}" for found in breakers.snapshot()) or "none"
                message = f"There is no such breaker, or its operation was not called yet; there are: {known}."
                detail = ErrorDetail("operation", message, shown(f"{wanted.dependency}/{wanted.operation}"))
                raise ApiError(ErrorCode.VALIDATION_FAILED, details=[detail])
            before = breaker.snapshot()
            breaker.set_mode(wanted.mode, seconds=wanted.seconds)
            put_on_canonical_line(
                dependency=wanted.dependency,
                operation=wanted.operation,
                to=wanted.mode,
                original=before.mode,
                seconds=wanted.seconds,
            )
            return JSONResponse(asdict(breaker.snapshot()))

    return [Route("/breakers", Breakers)]
