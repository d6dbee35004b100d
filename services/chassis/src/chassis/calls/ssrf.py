"""Requests to addresses that strangers choose: only ever to public ones.

A URL given by a customer may name our own network: a database, a neighbour's management port, the cloud's metadata
service, which hands out credentials (server-side request forgery, OWASP A10:2021). A name that is harmless when it is
registered may lead elsewhere when it is called. So the address is checked twice: `check_url` and `check_addresses` at
registration, where they can say what is wrong, and `guarded_socket` on the very address that is then connected to,
whatever name, redirect or second DNS answer led there.
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
"""For the addresses of one name, while a caller waits; the system's resolver would try for half a minute."""

_DEFAULT_PORTS = {"https": 443, "http": 80}
# No spaces, controls or backslashes: what two parsers read differently cannot be checked by one for the other.
_BRACKETED = re.compile(r"\[[^\[\]]*\](:\d*)?")
"""An IPv6 address as the host, with or without a port. Python before 3.13.4 takes text between the two."""
_PLAIN = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
# What the IANA hands out. Outside of it lie the loopback, private, link-local and multicast ranges, and those that wrap
# an IPv4 address: mapped (::ffff:0:0/96), translated (::ffff:0:0:0/96), compatible (::/96), NAT64 (64:ff9b::/96).
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Inside of what is public, and no host's: what belongs to protocols (Teredo, ORCHID; 192.0.0.9 and .10 lead to our own
# gateway), the relays to 6to4, and the newer range for documentation, which Python knows only since 3.13.1. 6to4
# itself, 2002::/16, is not global.
_SPECIAL = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))
_ISATAP = (0x00005EFE, 0x02005EFE)
"""The third quarter of an IPv6 address whose last one is an IPv4 address, in whatever network (RFC 5214)."""
_METADATA = frozenset({IPv4Address("168.63.129.16")})
"""Azure's, the one that has a public address; the other clouds' are link-local, private or shared."""

type Address = IPv4Address | IPv6Address
type Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host; raises OSError when it has none."""
type AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""What `socket.getaddrinfo` gives: family, type, protocol, canonical name, socket address."""


NO_PUBLIC_ADDRESS = "its host has no public address"


class DestinationRefused(HoldfastError):
    """No request may go there; the message is the reason. `Destination.why` is the one for whoever named it."""


@dataclass(frozen=True, slots=True)
class Destination:
    host: str
    port: int

    def why(self, refused: DestinationRefused) -> str:
        """Why no request goes to an address of this host, as the one who named it may read it.

        Of a name the answer is always the same, or anybody could ask which names our network has, and where they lead.
        """
        try:
            ip_address(self.host)
        except ValueError:
            return NO_PUBLIC_ADDRESS
        return str(refused)


def check_url(url: str, settings: EgressSettings) -> Destination:
    """Where the URL leads, as far as its text tells. Raises `DestinationRefused`."""
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
    except ValueError:  # whoever looks names up passes on what looks like an address, such as v1.fe80::1
        raise DestinationRefused("its address cannot be read") from None
    if any(address in network for network in settings.refused_networks):
        raise DestinationRefused("its address is in a network that is refused here")
    if any(address in network for network in settings.allowed_networks):
        return
    if (kind := _kind(address)) is not None:
        raise DestinationRefused(f"its address is {kind}")


async def check_addresses(destination: Destination, settings: EgressSettings, *, resolve: Resolve) -> None:
    """Raise `DestinationRefused` when the host has no address, or any that no request may go to: with one reason for
    both, unless the host is an address itself.
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
        raise DestinationRefused(destination.why(error)) from error


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver knows for a host, by which a number in any spelling is one too."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def guarded_socket(settings: EgressSettings) -> Callable[[AddressInfo], socket.socket]:
    """A socket factory for `aiohttp.TCPConnector(socket_factory=…, happy_eyeballs_delay=None)`.

    It is given the address that is connected to next and raises `DestinationRefused` instead of making the socket, so
    no name can lead anywhere else between the check and the connection. (Without the delay set to None, aiohttp tries
    several addresses at once, and an exception would be one of many.)
    """

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        check_address(str(address[0]), settings)
        return socket.socket(family, kind, protocol)

    return make


def _kind(address: Address) -> str | None:
    """What keeps requests away from this address; None when it is a public one."""
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
