"""What loopback addresses this machine has: a container without IPv6 has no ::1."""

import socket


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True
