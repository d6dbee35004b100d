"""The names of all keys of an installation in Redis. All keys begin with the installation's prefix, so several
installations can share a Redis.

These are the keys:

    <prefix>:owner:<service>                         the installation that the prefix belongs to
    <prefix>:<stream>                                the events of a stream
    <prefix>:<stream>:epoch, <prefix>:<stream>:term  the epoch and the term of a stream: see the methods below
    <prefix>:{cache:<cache>:<key>}                   the entries of a cached value
    <prefix>:{cache:<cache>:<key>}:lease             the lease of a cached value: its holder alone loads the value
    <prefix>:rate_limit:<service>:<policy>:<tier>:<key>   the state of a caller's rate limit
    <prefix>:quota:<service>:<dependency>            the state of a service's limit of calls to a dependency
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisNames:
    """The names of keys. All names begin with `prefix`, which is the setting `redis.prefix`."""

    prefix: str

    def owner(self, service: str) -> str:
        return f"{self.prefix}:owner:{service}"

    def stream(self, stream: str) -> str:
        return f"{self.prefix}:{stream}"

    def epoch(self, stream: str) -> str:
        """The key of the stream's epoch, an id that PostgreSQL stores, too. If this key is missing, Redis has lost its
        data. The relay then publishes again all events that PostgreSQL retains.
        """
        return f"{self.prefix}:{stream}:epoch"

    def term(self, stream: str) -> str:
        """The key of the term of the leader that published last. A leader is the one relay that publishes, and a term
        is a number that grows with each new leader.
        """
        return f"{self.prefix}:{stream}:term"

    def cached(self, cache: str, key: str) -> tuple[str, str]:
        """The key of a cached value's entries, and the key of its lease. A Redis cluster stores both keys on the same
        node, because both contain the same text in braces.
        """
        entries = f"{self.prefix}:{{cache:{cache}:{key}}}"
        return entries, f"{entries}:lease"

    def quota(self, service: str, dependency: str) -> str:
        return f"{self.prefix}:quota:{service}:{dependency}"

    def rate_limit(self, service: str, key: str) -> str:
        return f"{self.prefix}:rate_limit:{service}:{key}"
