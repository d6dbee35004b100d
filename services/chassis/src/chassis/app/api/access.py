"""Access to a route: the scope that its callers need, and the cost of a call in units of the caller's rate limit. The
process checks both before it reads the request's body.

Each route declares its scope and its cost, and the OpenAPI document shows both. A handler's parameter of the type
`Caller` is the authenticated principal:

    @router.post("/orders", access="orders:write", cost=5)
    async def place_order(caller: Caller, …) -> …:
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
from chassis.rate_limiting import Policy, default_policy, edge_policy

SCHEME = "key"
"""The name of the security scheme in the OpenAPI document: an API key or a service token, sent as `Bearer`."""
_PRINCIPAL = "holdfast.principal"
"""The key under which a request's ASGI scope holds the authenticated principal."""


@dataclass(frozen=True, slots=True)
class Access:
    """The scope that a caller needs, and the units that a call takes from the caller's rate limit."""

    scope: str
    cost: int

    def described(self) -> dict[str, Any]:
        """The OpenAPI fields that describe the scope and the cost in the route's operation."""
        return {"security": [{SCHEME: [self.scope]}], "x-rate-limit-cost": self.cost}

    async def check(self, request: Request) -> None:
        """Authenticate the caller and store it in the request's ASGI scope, or raise an `ApiError` that refuses the
        request.
        """
        principal = await _authenticated(request)
        await spend(request, principal.id, _policy_of(principal, request), cost=self.cost)
        principal.require(self.scope)


def _policy_of(principal: Principal, request: Request) -> Policy:
    limits = limits_of(request)
    if principal.is_service:
        return edge_policy(limits, caller=principal.id, service=request.app.resources.rate_limiter.service)
    return default_policy(limits, tier=limits.tier_of.get(principal.id, "standard"))


async def _authenticated(request: Request) -> Principal:
    authenticator: Authenticator = request.app.resources.authenticator
    try:
        principal = authenticator.authenticate(Exchange.of(request.scope).request_headers.get(b"authorization"))
    except ApiError as refused:
        if refused.code is ErrorCode.UNAUTHENTICATED:
            await spend_as_stranger(request)
        raise
    request.scope[_PRINCIPAL] = principal
    bind_to_task(principal=principal.id)
    return principal


def caller_of(request: Request) -> Principal:
    """The authenticated caller, which `Access.check` must have stored in the request's ASGI scope before."""
    principal: Principal = request.scope[_PRINCIPAL]
    return principal


async def _caller(request: Request) -> Principal:
    return caller_of(request)


Caller = Annotated[Principal, Depends(_caller)]
"""The type of a handler's parameter that receives the authenticated caller. The route must declare `access`."""
