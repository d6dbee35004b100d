"""Requests to URLs that customers choose: only public addresses are allowed.

A customer's URL may point into our network: at a database, at another pod's management port, or at the cloud's metadata
service, which hands out credentials (server-side request forgery, OWASP A10:2021). A host name that resolves to a
public address when the customer registers the URL may resolve to a private address later. So the address is checked
twice. `check_url` and `check_addresses` run at registration, so the customer gets the reason of a refusal.
`guarded_socket` runs at every connection and checks the address to which the client connects, no matter which name,
redirect or DNS answer led to the address.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from chassis.config.settings import EgressSettings
from chassis.errors import HoldfastError

RESOLVE_SECONDS = 2.0
"""Time limit for one name lookup, because a caller waits for the addresses. Without this limit, the system's resolver
would try for half a minute.
"""

_DEFAULT_PORTS = {"https": 443, "http": 80}
_BRACKETED = re.compile(r"\[[^\[\]]*\](:\d*)?")
"""An IPv6 address in brackets as a URL's host, with or without a port. `urlsplit` of Python before 3.13.4 also accepts
text between the address and the port, so `check_url` compares the host with this pattern.
"""
_PLAIN = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
"""Printable ASCII without spaces and backslashes. URL parsers disagree about spaces and backslashes, so the HTTP client
might connect to a different host than the host that `check_url` found.
"""
# The IANA assigns all public IPv6 addresses from 2000::/3. The loopback, private, link-local and multicast ranges are
# outside 2000::/3. The ranges whose addresses contain an IPv4 address are outside 2000::/3, too: mapped
# (::ffff:0:0/96), translated (::ffff:0:0:0/96), compatible (::/96) and NAT64 (64:ff9b::/96).
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Python's `is_global` is true for some addresses in the ranges of `_SPECIAL`, but no customer's host has such an
# address. 192.0.0.0/24 and 2001::/23 are for protocols such as Teredo, and 192.0.0.9 and 192.0.0.10 lead to our own
# gateway. 192.88.99.0/24 is for 6to4 relays. 3fff::/20 is for documentation; Python before 3.13.1 does not know this
# range. This list does not need 2002::/16, the 6to4 range, because `is_global` is false for the addresses in 2002::/16.
_SPECIAL = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))
_ISATAP = (0x00005EFE, 0x02005EFE)
"""Bits 64 to 95 of an ISATAP address, in any network, are one of these numbers. The last 32 bits of such an address are
an IPv4 address (RFC 5214).
"""
_METADATA = frozenset({IPv4Address("168.63.129.16")})
"""Azure's metadata service has this public address. Other clouds' metadata services have addresses that are not public,
so `_kind` refuses them anyway.
"""

type Address = IPv4Address | IPv6Address
type Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A function that takes a host's name and a port and returns the host's addresses. The function raises OSError when the
host has no address.
"""
type AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""An item of the list that `socket.getaddrinfo` returns: family, type, protocol, canonical name, socket address."""

NO_PUBLIC_ADDRESS = "its host has no public address"


class DestinationRefused(HoldfastError):
    """No request may go to this destination. The message is for our log; customers read `Destination.public_reason`."""


@dataclass(frozen=True, slots=True)
class Destination:
    host: str
    port: int

    def public_reason(self, refused: DestinationRefused) -> str:
        """The reason of a refusal, without details that the customer must not read.

        The reason is the same for every host name. From precise reasons, a customer could learn which names exist in
        our network and to which addresses these names resolve.
        """
        try:
            ip_address(self.host)
        except ValueError:
            return NO_PUBLIC_ADDRESS
        return str(refused)


def check_url(url: str, settings: EgressSettings) -> Destination:
    """The host and port in the URL. Raises `DestinationRefused` if the URL itself is not allowed.

    This function resolves no name, so it does not check to which address the host leads.
    """
    if not _PLAIN.fullmatch(url):
        raise DestinationRefused("it has characters that a URL cannot have")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise DestinationRefused("it is not a URL") from None
    if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc.rpartition("@")[2]):
        raise DestinationRefused("it is not a URL")
    if parts.scheme not in _DEFAULT_PORTS or (parts.scheme == "http" and not settings.allow_insecure):
        raise DestinationRefused("only https is allowed")
    if not host:
        raise DestinationRefused("it names no host")
    if "@" in parts.netloc:
        raise DestinationRefused("it holds a user name or password")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    if port not in settings.allowed_ports:
        raise DestinationRefused(f"port {port} is not allowed")
    return Destination(host, port)


def check_address(text: str, settings: EgressSettings) -> None:
    """Raise `DestinationRefused` unless a request may go to this address."""
    try:
        address = ip_address(text)
    except ValueError:  # a resolver may return text that only looks like an address, such as v1.fe80::1
        raise DestinationRefused("its address cannot be read") from None
    if any(address in network for network in settings.refused_networks):
        raise DestinationRefused("its address is in a network that is refused here")
    if any(address in network for network in settings.allowed_networks):
        return
    if (kind := _kind(address)) is not None:
        raise DestinationRefused(f"its address is {kind}")


async def check_addresses(destination: Destination, settings: EgressSettings, *, resolve: Resolve) -> None:
    """Raise `DestinationRefused` when the host has no address, or when any of its addresses is not allowed.

    For a host name, the error has the same reason in both cases, so a customer cannot learn which names exist in our
    network. If the host is itself an address, the error has the precise reason.
    """
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            addresses = await resolve(destination.host, destination.port)
    except (OSError, TimeoutError, UnicodeError):
        addresses = ()
    if not addresses:
        raise DestinationRefused(NO_PUBLIC_ADDRESS)
    try:
        for address in addresses:
            check_address(address, settings)
    except DestinationRefused as error:
        raise DestinationRefused(destination.public_reason(error)) from error


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver returns for a host.

    The resolver also accepts an IPv4 address in any notation (such as 0x7f.1) as the host.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def guarded_socket(settings: EgressSettings) -> Callable[[AddressInfo], socket.socket]:
    """A socket factory for `aiohttp.TCPConnector(socket_factory=…, happy_eyeballs_delay=None)`.

    aiohttp calls the factory with the address to which aiohttp is about to connect. For an address that is not allowed,
    the factory raises `DestinationRefused` and makes no socket. The factory checks the very address of the connection,
    so it does not matter if the name has resolved to other addresses before. With a `happy_eyeballs_delay`, aiohttp
    would try several addresses at once and hide `DestinationRefused` among the errors of the other addresses.
    """

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        check_address(str(address[0]), settings)
        return socket.socket(family, kind, protocol)

    return make


def _kind(address: Address) -> str | None:
    """The kind of an address that is not public, in the words of the error, or None for a public address."""
    if address in _METADATA:
        return "a cloud's metadata service"
    for kind in ("unspecified", "loopback", "link_local", "multicast"):
        if getattr(address, f"is_{kind}"):
            return kind.replace("_", "-")
    if isinstance(address, IPv6Address) and (
        address not in _GLOBAL_UNICAST or int(address) >> 32 & 0xFFFFFFFF in _ISATAP
    ):
        return "private, reserved or wraps an IPv4 address"
    if not address.is_global or any(address in network for network in _SPECIAL):
        return "private or reserved"
    return None
