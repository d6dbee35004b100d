"""Which Host a management port answers to: only names that no web page can have.

A page of evil.example can let its own name resolve to 127.0.0.1 or to a pod (DNS rebinding). Its visitor's browser then
reads the port there for it, as a part of evil.example, and sends `Host: evil.example`. Probes, Prometheus and operators
use an address, a name inside the cluster or the machine's own name.
"""

import socket
from collections.abc import Callable, Collection
from ipaddress import ip_address

type Hosts = Callable[[], Collection[str]]
"""`management.hosts`, as they are valid now."""

_NOT_PUBLIC = (".localhost", ".internal", ".svc", ".cluster.local")
"""RFC 6761; reserved by ICANN for private use; Kubernetes' Services. None can be registered by a stranger."""


def is_answered(host: str, more: Collection[str] = ()) -> bool:
    """Whether a request with this Host header is answered. `more` has further names, or `.example.com` for all below.

    Pure, but for the machine's own name. A request without a Host is no browser's.
    """
    name = _name_of(host)
    return (
        "." not in name  # such a name cannot be registered: a Service in its namespace, a container, localhost
        or name.endswith(_NOT_PUBLIC)
        or _is_address(name)
        or name == socket.gethostname().lower()
        or any(name == one.lower() or (one.startswith(".") and name.endswith(one.lower())) for one in more)
    )


def _name_of(host: str) -> str:
    """Without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
