"""What a request spends of somebody's limit."""

from starlette.requests import Request

from chassis.app.middleware import Exchange
from chassis.errors import RateLimited
from chassis.rate_limiting import Policy, RateLimiter, add_fields
from chassis.settings import RateLimitSettings


def limits_of(request: Request) -> RateLimitSettings:
    """The limits that are valid now."""
    limits: RateLimitSettings = request.app.state.live.current.rate_limit
    return limits


async def spend(request: Request, key: str, policy: Policy, *, cost: int = 1) -> None:
    """Take `cost` from what `key` has under `policy`, or raise `RateLimited`. The answer says what is left.

    Where several policies apply, spend under one after the other: the answer's fields name each.
    """
    limiter: RateLimiter = request.app.state.resources.rate_limiter
    decision = await limiter.check(key, policy, cost=cost)
    if not policy.dark_launch:
        add_fields(Exchange.of(request.scope).headers, decision, policy)
    if not decision.allowed:
        raise RateLimited(retry_after=decision.retry_after)
