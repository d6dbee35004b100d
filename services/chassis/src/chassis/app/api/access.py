"""Who may call a route, and what a call takes of the caller's limit: decided before the body is read.

@router.post("/orders", access="orders:write", cost=5)     the route's declaration, which the OpenAPI document shows
caller: Caller                                             in the handler: the authenticated principal
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from chassis.app.api.limits import limits_of, spend, spend_as_stranger
from chassis.app.api.middleware import Exchange
from chassis.auth import Authenticator, Principal
from chassis.errors import ApiError, ErrorCode
from chassis.logging import bind_to_task
from chassis.rate_limiting import default_policy

SCHEME = "key"
"""The name of the security scheme in OpenAPI documents: a bearer key or token."""
_PRINCIPAL = "holdfast.principal"
"""The key of a request's scope under which its principal is kept."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a route that is not public asks of its callers: the scope, and what a call takes of their limit."""

    scope: str
    cost: int

    def described(self) -> dict[str, Any]:
        """As OpenAPI fields of the operation."""
        return {"security": [{SCHEME: [self.scope]}], "x-rate-limit-cost": self.cost}

    async def check(self, request: Request) -> None:
        """Remember the caller in the request's scope, or raise the `ApiError` that refuses the request."""
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
    """The caller, once the route's `access` has let the request pass."""
    principal: Principal = request.scope[_PRINCIPAL]
    return principal


async def _caller(request: Request) -> Principal:
    return caller_of(request)


Caller = Annotated[Principal, Depends(_caller)]
"""A route's parameter: the caller. The route must have declared its `access`."""
