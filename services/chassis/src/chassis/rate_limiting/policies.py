"""Policies: the limits by name, and the fields of an answer that describe them."""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from functools import lru_cache

from chassis.config.settings import BURST_SECONDS, LimitSettings, RateLimitSettings
from chassis.rate_limiting.gcra import Decision


@dataclass(frozen=True, slots=True)
class Policy:
    """A named limit for one tier: `rate` units a second, and a burst of at most `burst` units at once.

    A header quotes the name, so the name has only lower-case letters, digits, hyphens and underscores. With
    `dark_launch` the policy's decisions are counted, but the decisions refuse no request and add no field to an answer.
    """

    name: str
    tier: str
    rate: float
    burst: int
    dark_launch: bool = False

    @classmethod
    def of(cls, name: str, limit: LimitSettings) -> "Policy":
        """A limit that is the same for every tier."""
        return cls(name, "standard", limit.rate_per_second, limit.burst, limit.dark_launch)

    @property
    def window(self) -> int:
        """Seconds, rounded up, after which a spent burst is available again."""
        return math.ceil(self.burst / self.rate)

    def share(self, replicas: int) -> "Policy":
        """The part of the limit that each of `replicas` processes may allow alone; the burst of a share is at least one
        unit.
        """
        return replace(self, rate=self.rate / replicas, burst=max(1, self.burst // replicas))


def default_policy(settings: RateLimitSettings, *, tier: str) -> Policy:
    """The limit of an authenticated principal, multiplied by the factor of its `tier`."""
    factor = settings.tiers.get(tier, 1.0)
    return _default_policy(tier, settings.rate_per_second * factor, settings.burst * factor, settings.dark_launch)


@lru_cache(maxsize=256)  # the cache stays small, because there are few tiers
def _default_policy(tier: str, rate: float, burst: float, dark_launch: bool) -> Policy:  # noqa: FBT001
    return Policy("default", tier, rate, max(1, round(burst)), dark_launch)


def edge_policy(settings: RateLimitSettings, *, caller: str, service: str) -> Policy:
    """The limit of the calls from one service to another. Such a pair is an edge, and the setting `rate_limit.edges`
    has its calls per second. The called service does not start if this setting lacks an edge of a caller in its
    `auth.service_scopes`, so this function always finds the edge.
    """
    rate = settings.edges[caller][service]
    return Policy("edge", "standard", rate, max(1, round(rate * BURST_SECONDS)))


def add_fields(fields: MutableMapping[str, str], decision: Decision, policy: Policy) -> None:
    """Add the decision to an answer's `fields`: RateLimit-Policy and RateLimit, and Retry-After if the request was
    refused.

    When several policies apply, each policy adds an item, with the policy's name, to the same two fields. Times are in
    whole seconds. The items are those of https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/: q is
    the quota, w the window, r the remaining quota, t the time until the quota is whole again.
    """
    items = {
        "RateLimit-Policy": f'"{policy.name}";q={policy.burst};w={policy.window}',
        "RateLimit": f'"{policy.name}";r={decision.remaining};t={math.ceil(decision.reset_after)}',
    }
    for name, item in items.items():
        fields[name] = f"{fields[name]}, {item}" if name in fields else item
    if not decision.allowed:
        fields["Retry-After"] = str(math.ceil(decision.retry_after))
