"""The names of all keys of an installation in Redis. They begin with its prefix, so installations can share a Redis.

These are the keys:

    <prefix>:owner:<service>                         the installation that the prefix belongs to
    <prefix>:<stream>                                events, with `:epoch` and `:term` beside them
    <prefix>:{cache:<cache>:<key>}                   cached entries, with `:lease` beside them
    <prefix>:rate_limit:<service>:<policy>:<tier>:<key>
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisNames:
    """`redis.prefix` of the settings, and the names below it."""

    prefix: str

    def owner(self, service: str) -> str:
        return f"{self.prefix}:owner:{service}"

    def stream(self, stream: str) -> str:
        return f"{self.prefix}:{stream}"

    def epoch(self, stream: str) -> str:
        """The stream's epoch. When this key is gone, the relay publishes the retained events again."""
        return f"{self.prefix}:{stream}:epoch"

    def term(self, stream: str) -> str:
        """The term of the last leader that published to the stream."""
        return f"{self.prefix}:{stream}:term"

    def cached(self, cache: str, key: str) -> tuple[str, str]:
        """The entries and the lease of a key; the braces keep both on one node of a cluster."""
        entries = f"{self.prefix}:{{cache:{cache}:{key}}}"
        return entries, f"{entries}:lease"

    def rate_limit(self, service: str, key: str) -> str:
        return f"{self.prefix}:rate_limit:{service}:{key}"
