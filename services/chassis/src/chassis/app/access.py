"""Who may call a route, and what a call takes of the caller's limit: decided before anything of the body is read.

openapi_extra=access("orders:write", cost=5)     the route's declaration, which the OpenAPI document shows
caller: Caller                                   in the handler: who it was found to be
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from chassis.app.limits import limits_of, spend, spend_as_stranger
from chassis.app.middleware import Exchange
from chassis.auth import Authenticator, Principal
from chassis.errors import ApiError, ErrorCode
from chassis.logging import bind_to_task
from chassis.rate_limiting import default_policy

_SCHEME = "key"
_COST = "x-rate-limit-cost"
_PRINCIPAL = "holdfast.principal"
"""Where a request's scope keeps who it was found to be from."""


def access(scope: str, *, cost: int = 1) -> dict[str, Any]:
    """A route's `openapi_extra`: its callers need `scope`, and each call takes `cost` of their limit.

    Whoever has no valid key or token is answered 401, or 429 where too many at his address have none; whoever is over
    his limit 429, and whoever has not the scope 403. The limit's fields go on every answer.
    """
    return {"security": [{_SCHEME: [scope]}], _COST: cost}


@dataclass(frozen=True, slots=True)
class Access:
    """What `access` declared: the scope, and the cost of a call."""

    scope: str
    cost: int

    @classmethod
    def declared_in(cls, openapi_extra: dict[str, Any] | None) -> "Access | None":
        """None for a route that anybody may call."""
        if openapi_extra is None or _COST not in openapi_extra:
            return None
        return cls(openapi_extra["security"][0][_SCHEME][0], openapi_extra[_COST])

    async def check(self, request: Request) -> None:
        """Let the request pass, and remember who it is from, or raise the `ApiError` that refuses it."""
        principal = await _authenticated(request)
        limits = limits_of(request)
        policy = default_policy(limits, tier=limits.tier_of.get(principal.id, "standard"))
        await spend(request, principal.id, policy, cost=self.cost)
        principal.require(self.scope)


async def _authenticated(request: Request) -> Principal:
    authenticator: Authenticator = request.app.resources.authenticator
    try:
        principal = authenticator.authenticate(Exchange.of(request.scope).asked.get(b"authorization"))
    except ApiError as refused:
        if refused.code is ErrorCode.UNAUTHENTICATED:
            await spend_as_stranger(request)
        raise
    request.scope[_PRINCIPAL] = principal
    bind_to_task(principal=principal.id)
    return principal


def caller_of(request: Request) -> Principal:
    """Who calls, once the route's `access` has let the request pass."""
    principal: Principal = request.scope[_PRINCIPAL]
    return principal


async def _caller(request: Request) -> Principal:
    return caller_of(request)


Caller = Annotated[Principal, Depends(_caller)]
"""A route's parameter: who calls. The route must have declared its `access`."""


def describe_access(document: dict[str, Any]) -> None:
    """Let the OpenAPI document say what kind of key `access` means."""
    if any(_COST in operation for path in document["paths"].values() for operation in path.values()):
        document["components"]["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer"}}
