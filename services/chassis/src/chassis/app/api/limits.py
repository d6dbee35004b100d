"""What a request spends of somebody's limit."""

from ipaddress import IPv4Address, IPv6Network, ip_address

from starlette.requests import Request

from chassis.app.api.middleware import Exchange
from chassis.config.settings import RateLimitSettings
from chassis.errors import RateLimited
from chassis.rate_limiting import Policy, RateLimiter, add_fields

_IPV6_PREFIX = 64


def limits_of(request: Request) -> RateLimitSettings:
    """The limits that are valid now."""
    return _limiter_of(request).current()


async def spend_as_stranger(request: Request) -> None:
    """Take one from what the address has that this request came from, or raise `RateLimited`.

    For what is answered without a valid key: a wrong key, a path or a method that no route has, the OpenAPI document.
    A caller with a valid key is not refused for what others at his address have done.
    """
    policy = Policy.of("unauthenticated", limits_of(request).unauthenticated)
    await spend(request, f"ip:{network_of(request.client.host if request.client else '')}", policy)


def network_of(host: str) -> str:
    """What is limited together: an IPv4 address, or the /64 of an IPv6 one, which one customer has to himself."""
    try:
        address = ip_address(host)
    except ValueError:
        return "unknown"  # a proxy's mistake, or a socket without addresses: together they are one
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((address, _IPV6_PREFIX), strict=False))


async def spend(request: Request, key: str, policy: Policy, *, cost: int = 1) -> None:
    """Take `cost` from what `key` has under `policy`, or raise `RateLimited`. The answer says what is left.

    Where several policies apply, spend under one after the other: the answer's fields name each.
    """
    decision = await _limiter_of(request).check(key, policy, cost=cost)
    if not policy.dark_launch:
        add_fields(Exchange.of(request.scope).headers, decision, policy)
    if not decision.allowed:
        raise RateLimited(retry_after=decision.retry_after)


def _limiter_of(request: Request) -> RateLimiter:
    limiter: RateLimiter = request.app.resources.rate_limiter
    return limiter
