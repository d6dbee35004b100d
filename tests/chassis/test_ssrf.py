"""Destinations that strangers choose: every class of address that is not public is refused, whatever leads there."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_network

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from chassis.calls.ssrf import (
    Destination,
    DestinationRefused,
    check_address,
    check_addresses,
    check_url,
    guarded_socket,
    resolve,
)
from chassis.config.settings import EgressSettings
from hypothesis import given
from hypothesis import strategies as st

STRICT = EgressSettings()
PUBLIC = "93.184.215.14"


def refusal(address: str, settings: EgressSettings = STRICT) -> str | None:
    try:
        check_address(address, settings)
    except DestinationRefused as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("0.0.0.0", id="this host"),
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.255.255.254", id="loopback, the other end"),
        pytest.param("10.1.2.3", id="private, 10/8"),
        pytest.param("172.16.0.1", id="private, 172.16/12"),
        pytest.param("172.31.255.255", id="private, the other end"),
        pytest.param("192.168.1.1", id="private, 192.168/16"),
        pytest.param("100.64.0.1", id="shared by carriers"),
        pytest.param("169.254.0.1", id="link-local"),
        pytest.param("169.254.169.254", id="metadata of most clouds"),
        pytest.param("100.100.100.200", id="metadata of Alibaba"),
        pytest.param("192.0.0.192", id="metadata of Oracle"),
        pytest.param("168.63.129.16", id="metadata of Azure"),
        pytest.param("fd00:ec2::254", id="metadata of AWS over IPv6"),
        pytest.param("192.0.2.1", id="documentation"),
        pytest.param("198.18.0.1", id="benchmarks"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("239.255.255.250", id="multicast, SSDP"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("::", id="this host, IPv6"),
        pytest.param("::1", id="loopback, IPv6"),
        pytest.param("fc00::1", id="unique local"),
        pytest.param("fe80::1", id="link-local, IPv6"),
        pytest.param("fe80::1%eth0", id="link-local with its interface"),
        pytest.param("fec0::1", id="site-local, long deprecated"),
        pytest.param("ff02::1", id="multicast, IPv6"),
        pytest.param("ff0e::1", id="multicast, global"),
        pytest.param("2001:db8::1", id="documentation, IPv6"),
        pytest.param("::ffff:127.0.0.1", id="mapped loopback"),
        pytest.param("::ffff:93.184.215.14", id="mapped, though public"),
        pytest.param("::127.0.0.1", id="compatible loopback"),
        pytest.param("64:ff9b::7f00:1", id="loopback by NAT64"),
        pytest.param("64:ff9b::a9fe:a9fe", id="metadata by NAT64"),
        pytest.param("64:ff9b:1::7f00:1", id="loopback by local NAT64"),
        pytest.param("2002:7f00:1::", id="loopback by 6to4"),
        pytest.param("2001:0:7f00:1::", id="Teredo"),
        pytest.param("2001:20::1", id="ORCHID, a hash that is no host"),
        pytest.param("2606:4700::5efe:7f00:1", id="loopback by ISATAP"),
        pytest.param("2606:4700::200:5efe:a00:1", id="private by ISATAP, the other kind"),
        pytest.param("::ffff:0:7f00:1", id="loopback, translated"),
        pytest.param("3fff::1", id="documentation, the newer range"),
        pytest.param("192.88.99.1", id="relay to 6to4"),
        pytest.param("192.0.0.9", id="our own gateway's port control"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert refusal(address) is not None


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses(v=4))
def test_of_ipv4_only_what_the_registries_call_global_is_allowed(address: object) -> None:
    kinds = ("is_private", "is_loopback", "is_link_local", "is_multicast", "is_reserved", "is_unspecified")
    if any(getattr(address, kind) for kind in kinds):
        assert refusal(str(address)) is not None


@given(st.ip_addresses(v=6))
def test_of_ipv6_only_global_unicast_is_allowed(address: object) -> None:
    if refusal(str(address)) is None:
        assert address in ip_network("2000::/3")


def test_the_reason_names_the_kind_of_address() -> None:
    assert refusal("127.0.0.1") == "its address is loopback"
    assert refusal("169.254.169.254") == "its address is link-local"
    assert refusal("10.0.0.1") == "its address is private or reserved"
    assert refusal("168.63.129.16") == "its address is a cloud's metadata service"


def test_an_allowed_network_is_allowed_and_its_neighbour_is_not() -> None:
    dev = EgressSettings(allowed_networks=(IPv4Network("127.0.0.0/8"),))
    assert refusal("127.0.0.1", dev) is None
    assert refusal("10.0.0.1", dev) is not None
    assert refusal("::ffff:127.0.0.1", dev) is not None


def test_a_refused_network_is_refused_though_it_is_public_or_allowed() -> None:
    ours = EgressSettings(
        allowed_networks=(IPv4Network("127.0.0.0/8"),),
        refused_networks=(IPv4Network("93.184.215.0/24"), IPv4Network("127.0.0.9/32")),
    )
    assert refusal(PUBLIC, ours) == refusal("127.0.0.9", ours) == "its address is in a network that is refused here"
    assert refusal("127.0.0.1", ours) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/", "only https is allowed"),
        ("ftp://example.com/", "only https is allowed"),
        ("file:///etc/passwd", "only https is allowed"),
        ("gopher://example.com/", "only https is allowed"),
        ("//example.com/", "only https is allowed"),
        ("example.com", "only https is allowed"),
        ("https://", "it names no host"),
        ("https:///path", "it names no host"),
        ("https://user@example.com/", "it holds a user name or password"),
        ("https://user:password@example.com/", "it holds a user name or password"),
        ("https://@example.com/", "it holds a user name or password"),
        ("https://example.com:8443/", "port 8443 is not allowed"),
        ("https://example.com:0/", "port 0 is not allowed"),
        ("https://example.com:99999/", "it is not a URL"),
        ("https://example.com:https/", "it is not a URL"),
        ("https://[::1/", "it is not a URL"),
        ("https://exam ple.com/", "it has characters that a URL cannot have"),
        ("https://example.com\\@10.0.0.1/", "it has characters that a URL cannot have"),
        ("https://example.com/\r\nHost: other", "it has characters that a URL cannot have"),
        ("https://exämple.com/", "it has characters that a URL cannot have"),
        ("", "it has characters that a URL cannot have"),
    ],
)
def test_a_url_that_cannot_be_called_safely_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(DestinationRefused) as refused:
        check_url(url, STRICT)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("https://example.com", Destination("example.com", 443)),
        ("HTTPS://Example.com:443/path?query", Destination("example.com", 443)),
        ("https://[2606:4700::1111]/", Destination("2606:4700::1111", 443)),
    ],
)
def test_an_https_url_leads_to_its_host_and_port(url: str, destination: Destination) -> None:
    assert check_url(url, STRICT) == destination


def test_http_and_other_ports_are_allowed_where_settings_say_so() -> None:
    dev = EgressSettings(allow_insecure=True, allowed_ports=(8103,))
    assert check_url("http://127.0.0.1:8103/webhooks", dev) == Destination("127.0.0.1", 8103)


# The first row of each kind is how it is usually written.
SPELLINGS = [
    *("127.0.0.1", "127.1", "127.0.1", "127.000.000.001", "127.255.255.254"),
    *("2130706433", "0x7f000001", "0x7F.0.0.1", "0x7f.1", "017700000001", "0177.0.0.1", "0177.1", "00000177.0.0.1"),
    *("0.0.0.0", "0", "0x0", "00"),
    *("localhost", "LOCALHOST", "LocalHost"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518"),
    *("10.0.0.1", "167772161", "0xa000001", "012.1", "192.168.257", "172.16.1", "100.100.100.200", "168.63.129.16"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::]", "[::1%251]", "[fe80::1%lo]", "[fe80::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:FFFF:127.0.0.1]", "[::127.0.0.1]", "[::ffff:127.0.0.1%251]"),
    *(
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::]",
        "[2001:0:7f00:1::]",
    ),
    *(
        "[fd00:ec2::254]",
        "[ff02::1]",
        "127.0.0.1:443",
        "[::1]:443",
        "127.0.0.1:",
        "127.1#@example.com",
        "127.1?@example.com",
    ),
]
UNREADABLE = [
    *("127.0.0.1.", "127.0.0.1..", "%31%32%37.0.0.1", "127.0.0.1%00.example", "127.0.0.1%2f.example", "4294967297"),
    *("[fe80::1%25nowhere]", "[v1.fe80::1]", "0x", ".", "1.2.3.4.5"),
]
MISLEADING = [
    *("example.com@127.0.0.1", "127.0.0.1@example.com", "example.com:443@127.0.0.1", "127.0.0.1%2f@example.com"),
    *(
        "example.com\\@127.0.0.1",
        "127.0.0.1\\.example.com",
        "127.0.0.1\t",
        "127.0.0.1\n.example.com",
        "example.com@@10.1",
    ),
    *("\u2460\u2461\u2466.0.0.1", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "127\uff0e0\uff0e0\uff0e1"),
    *("\u0661\u0662\u0667.0.0.1", "\uff2c\uff2f\uff23\uff21\uff2c\uff28\uff2f\uff33\uff34", "local\u00adhost"),
    *("/127.0.0.1", "[::1", "[::1]x", "127.0.0.1:80:443", "127.0.0.1:22", "[::1]:6379"),
]


async def test_no_spelling_of_an_address_of_ours_gets_past_registration() -> None:
    """Read as the system reads them: a number in any base, with parts left out, wrapped, or with an interface."""
    assert len(SPELLINGS) > 40
    for spelling in SPELLINGS:
        with pytest.raises(DestinationRefused, match=r"its (address is|host has no public address)"):
            await check_addresses(check_url(f"https://{spelling}/", STRICT), STRICT, resolve=resolve)


async def test_what_the_resolver_cannot_read_has_no_address() -> None:
    for spelling in UNREADABLE:
        with pytest.raises(DestinationRefused, match="its host has no public address"):
            await check_addresses(check_url(f"https://{spelling}/", STRICT), STRICT, resolve=resolve)


@pytest.mark.parametrize("spelling", MISLEADING, ids=ascii)
def test_what_two_readers_may_understand_differently_is_refused_as_text(spelling: str) -> None:
    with pytest.raises(DestinationRefused):
        check_url(f"https://{spelling}/", STRICT)


async def test_no_spelling_gets_past_the_connection_either() -> None:
    """Without any check before it: the client reads the URL in its own way, and the socket refuses the address."""
    async with session(STRICT) as client:
        for spelling in (*SPELLINGS, *UNREADABLE, "127.0.0.1@127.0.0.1", "\uff11\uff12\uff17.0.0.1"):
            with pytest.raises((DestinationRefused, aiohttp.ClientConnectorDNSError, aiohttp.InvalidURL, UnicodeError)):
                await client.get(f"http://{spelling}/")


async def test_one_private_address_among_public_ones_is_enough_to_be_refused() -> None:
    async def both(_host: str, _port: int) -> Sequence[str]:
        return [PUBLIC, "10.0.0.1"]

    with pytest.raises(DestinationRefused):
        await check_addresses(Destination("example.com", 443), STRICT, resolve=both)


@pytest.mark.parametrize("inside", [[], ["10.0.0.1"], ["127.0.0.1"], ["169.254.169.254"], ["fd00::1"], [PUBLIC, "::1"]])
async def test_where_a_name_leads_inside_is_not_said(inside: list[str]) -> None:
    """Or registration could be asked for the names of our network, and for their addresses."""

    async def ask(_host: str, _port: int) -> Sequence[str]:
        return inside

    with pytest.raises(DestinationRefused) as refused:
        await check_addresses(Destination("database.internal", 443), STRICT, resolve=ask)
    assert str(refused.value) == "its host has no public address"


async def test_a_name_without_an_address_is_refused() -> None:
    async def nothing(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror

    async def empty(_host: str, _port: int) -> Sequence[str]:
        return []

    for host, ask in (("example.com", nothing), ("example.com", empty), ("a" * 64 + ".example", resolve)):
        with pytest.raises(DestinationRefused, match="its host has no public address"):
            await check_addresses(Destination(host, 443), STRICT, resolve=ask)


async def test_a_resolver_that_does_not_answer_does_not_hold_up_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_host: str, _port: int) -> Sequence[str]:
        await asyncio.get_running_loop().create_future()
        return []

    monkeypatch.setattr("chassis.calls.ssrf.RESOLVE_SECONDS", 0.01)
    with pytest.raises(DestinationRefused):
        await check_addresses(Destination("example.com", 443), STRICT, resolve=never)


# At the connection


@dataclass(slots=True)
class FakeDns(AbstractResolver):
    """Gives one answer after the other, the last one for ever."""

    answers: list[list[str]]
    asked: int = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        self.asked += 1
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    async def for_check(self, host: str, port: int) -> Sequence[str]:
        return [found["host"] for found in await self.resolve(host, port)]

    async def close(self) -> None: ...


@dataclass(slots=True)
class Inside:
    """A server that nobody outside may reach."""

    port: int = 0
    paths: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if request.path == "/redirect":
            raise web.HTTPFound(f"http://127.0.0.2:{self.port}/inside")
        return web.Response()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    server = Inside()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@asynccontextmanager
async def session(settings: EgressSettings, dns: FakeDns | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(
        socket_factory=guarded_socket(settings), happy_eyeballs_delay=None, resolver=dns, use_dns_cache=False
    )
    async with aiohttp.ClientSession(connector=connector) as client:
        yield client


async def test_a_name_whose_second_answer_is_another_address_leads_nowhere(inside: Inside) -> None:
    dns = FakeDns([[PUBLIC], ["127.0.0.1"]])
    settings = EgressSettings(allow_insecure=True, allowed_ports=(inside.port,))
    url = f"http://rebinding.example:{inside.port}/"
    await check_addresses(check_url(url, settings), settings, resolve=dns.for_check)
    async with session(settings, dns) as client:
        with pytest.raises(DestinationRefused, match="loopback"):
            await client.post(url)
    assert (dns.asked, inside.paths) == (2, [])


async def test_a_private_address_after_one_that_fails_leads_nowhere(inside: Inside) -> None:
    dns = FakeDns([["127.0.0.2", "127.0.0.1"]])
    async with session(EgressSettings(allowed_networks=(IPv4Network("127.0.0.2/32"),)), dns) as client:
        with pytest.raises(DestinationRefused):
            await client.get("http://two.example:1/")
    assert inside.paths == []


async def test_an_address_in_the_url_itself_is_refused_though_no_resolver_is_asked(inside: Inside) -> None:
    async with session(STRICT) as client:
        with pytest.raises(DestinationRefused):
            await client.get(f"http://127.0.0.1:{inside.port}/")
    assert inside.paths == []


async def test_a_redirect_to_a_private_address_leads_nowhere_even_if_it_is_followed(inside: Inside) -> None:
    async with session(EgressSettings(allowed_networks=(IPv4Network("127.0.0.1/32"),))) as client:
        with pytest.raises(DestinationRefused):
            await client.get(f"http://127.0.0.1:{inside.port}/redirect", allow_redirects=True)
    assert inside.paths == ["/redirect"]


async def test_an_allowed_address_is_reached(inside: Inside) -> None:
    settings = EgressSettings(allowed_networks=(IPv4Network("127.0.0.0/8"),))
    async with session(settings) as client, client.get(f"http://127.0.0.1:{inside.port}/") as answer:
        assert answer.status == 200
