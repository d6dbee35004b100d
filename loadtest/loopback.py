"""Whether a URL is of this machine, so that load reaches nobody by mistake."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Without asking a name server, whose answer may be another the next time."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
