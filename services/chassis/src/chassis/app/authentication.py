"""Who calls a route, and whether it may: dependencies of the framework's kind, so that the OpenAPI document says so."""

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from structlog.contextvars import bind_contextvars

from chassis.app.limits import limits_of, spend, spend_as_stranger
from chassis.auth import Authenticator, Principal
from chassis.errors import ApiError, ErrorCode
from chassis.rate_limiting import default_policy

_PRINCIPAL_KEY = "holdfast.principal"
"""Where a request's scope keeps who it was found to be from: a route asks for its limit, its scope and its caller."""


class Authenticated(SecurityBase):
    """A route's dependency: who calls; raises 401 without a valid key or token, and 429 where too many have none."""

    scheme_name = "key"
    model = HTTPBearer()

    async def __call__(self, request: Request) -> Principal:
        principal: Principal | None = request.scope.get(_PRINCIPAL_KEY)
        if principal is None:
            authenticator: Authenticator = request.app.state.resources.authenticator
            try:
                principal = authenticator.authenticate(request.headers.get("authorization"))
            except ApiError as refused:
                if refused.code is ErrorCode.UNAUTHENTICATED:
                    await spend_as_stranger(request)
                raise
            request.scope[_PRINCIPAL_KEY] = principal
            bind_contextvars(principal=principal.id)
        return principal


class _Allowed(Authenticated):
    def __init__(self, scope: str) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> Principal:
        principal = await super().__call__(request)
        principal.require(self._scope)
        return principal


class _Spending(Authenticated):
    def __init__(self, cost: int) -> None:
        self._cost = cost

    async def __call__(self, request: Request) -> Principal:
        principal = await super().__call__(request)
        limits = limits_of(request)
        policy = default_policy(limits, tier=limits.tier_of.get(principal.id, "standard"))
        await spend(request, principal.id, policy, cost=self._cost)
        return principal


Caller = Annotated[Principal, Depends(Authenticated())]


def allowed(scope: str) -> Any:
    """A route's dependency: who calls must have this scope, or is answered 403."""
    return Security(_Allowed(scope), scopes=[scope])


def rate_limited(*, cost: int = 1) -> Any:
    """A route's dependency: spend `cost` of the caller's limit, or answer 429. The fields go on every answer."""
    return Depends(_Spending(cost))
