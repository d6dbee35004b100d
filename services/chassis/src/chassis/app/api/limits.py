"""Rate limits of requests: a request takes units from the limit of a key, such as the caller's id, or is refused."""

from ipaddress import IPv4Address, IPv6Network, ip_address

from starlette.requests import Request

from chassis.app.api.middleware import Exchange
from chassis.config.settings import RateLimitSettings
from chassis.errors import RateLimited
from chassis.rate_limiting import Policy, RateLimiter, add_fields

_IPV6_PREFIX = 64


def limits_of(request: Request) -> RateLimitSettings:
    """The settings of the rate limits that are valid now."""
    return _limiter_of(request).current()


async def spend_as_stranger(request: Request) -> None:
    """Take one unit from the limit of the caller's address, or raise `RateLimited`.

    This limit covers requests for which a caller needs no valid API key: those with a wrong key, of an unknown path or
    method, or of the OpenAPI document. Requests with a valid key take nothing from the limit of their address, so other
    callers at that address cannot block them.
    """
    policy = Policy.of("unauthenticated", limits_of(request).unauthenticated)
    await spend(request, f"ip:{network_of(request.client.host if request.client else '')}", policy)


def network_of(host: str) -> str:
    """The IPv4 address itself, or the /64 network of an IPv6 address, because one customer usually has a whole /64."""
    try:
        address = ip_address(host)
    except ValueError:
        # A proxy has sent a malformed address, or the socket has no address. All such callers share one limit.
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((address, _IPV6_PREFIX), strict=False))


async def spend(request: Request, key: str, policy: Policy, *, cost: int = 1) -> None:
    """Take `cost` units from the limit of `key` under `policy`, or raise `RateLimited`. The answer's RateLimit headers
    say how many units are left.

    A route may call this function for several policies, one after the other. The RateLimit headers then name each
    policy.
    """
    decision = await _limiter_of(request).check(key, policy, cost=cost)
    if not policy.dark_launch:
        add_fields(Exchange.of(request.scope).headers, decision, policy)
    if not decision.allowed:
        raise RateLimited(retry_after=decision.retry_after)


def _limiter_of(request: Request) -> RateLimiter:
    limiter: RateLimiter = request.app.resources.rate_limiter
    return limiter
