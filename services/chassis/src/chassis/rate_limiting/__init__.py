"""Rate limiting: GCRA, decided in one Redis call on Redis' clock. While Redis fails, each process allows its share of a
limit.

Read `gcra` first: it makes the decision and is a pure function. Then read `policies`, which defines the limits and the
fields of an answer about them. Then read `limiter`: it decides in Redis with `gcra.lua`, and in this process while
Redis fails.
"""

from chassis.rate_limiting.gcra import MICROSECONDS, Decision, decide
from chassis.rate_limiting.limiter import LocalLimiter, RateLimiter
from chassis.rate_limiting.policies import Policy, add_fields, default_policy

__all__ = [
    "MICROSECONDS",
    "Decision",
    "LocalLimiter",
    "Policy",
    "RateLimiter",
    "add_fields",
    "decide",
    "default_policy",
]
