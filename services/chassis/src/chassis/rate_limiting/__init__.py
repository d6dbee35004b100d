"""Rate limiting with GCRA, the generic cell rate algorithm. One Redis call makes each decision, on Redis' clock. While
Redis fails, each process allows its share of a limit: the limit divided by the number of processes.

Read `gcra` first: its function `decide` makes the decision without I/O. Then read `policies`, which defines the limits
and the fields of an answer that describe a limit. Then read `limiter`: the limiter decides in Redis with `gcra.lua`,
and in this process while Redis fails.
"""

from chassis.rate_limiting.gcra import MICROSECONDS, Decision, decide
from chassis.rate_limiting.limiter import LocalLimiter, RateLimiter
from chassis.rate_limiting.policies import Policy, add_fields, default_policy, edge_policy

__all__ = [
    "MICROSECONDS",
    "Decision",
    "LocalLimiter",
    "Policy",
    "RateLimiter",
    "add_fields",
    "decide",
    "default_policy",
    "edge_policy",
]
