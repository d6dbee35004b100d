"""Rate limiting: GCRA, decided in one Redis call on Redis' clock. Without Redis each process allows its share.

Read `gcra` first: the decision, a pure function. Then `policies`: which limits there are, and what an answer says about
them. Then `limiter`: the decision in Redis, by `gcra.lua`, and in this process while Redis fails.
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
