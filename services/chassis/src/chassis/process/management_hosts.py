"""The values of Host that a management port accepts: only names that no web page can have.

The owner of evil.example can let that name resolve to 127.0.0.1 or to a pod (DNS rebinding). A visitor's browser then
sends the web page's requests to the management port at that address, with `Host: evil.example`, and lets the page read
the answers. Probes, Prometheus and operators use an address, a name inside the cluster or the machine's own name.
"""

import socket
from collections.abc import Callable, Collection
from ipaddress import ip_address

type Hosts = Callable[[], Collection[str]]
"""Returns the current value of `management.hosts`."""

_NOT_PUBLIC = (".localhost", ".internal", ".svc", ".cluster.local")
"""Domains that cannot be registered: RFC 6761, ICANN (for private use) and Kubernetes (for Services) reserve them."""


def is_allowed(host: str, more: Collection[str] = ()) -> bool:
    """Whether a request with this Host header is answered. `more` has additional names. In `more`, `.example.com`
    stands for all names below `example.com`.

    A pure function, except that it reads the machine's name. No browser sends a request without Host, so "" is allowed.
    """
    name = _name_of(host)
    return (
        # A name without a dot cannot be registered, so the name is that of a Service, a container or localhost.
        "." not in name
        or name.endswith(_NOT_PUBLIC)
        or _is_address(name)
        or name == socket.gethostname().lower()
        or any(name == one.lower() or (one.startswith(".") and name.endswith(one.lower())) for one in more)
    )


def _name_of(host: str) -> str:
    """The name without the port and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
