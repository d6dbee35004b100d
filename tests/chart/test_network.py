"""Each call that a pod makes is allowed, and nothing else is: calls are those of the settings, not of the policies."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from calls import PLACES, Call, calls_of
from chassis.calls.ssrf import DestinationRefused, check_address
from chassis.config import settings_of
from chassis.config.settings import EgressSettings
from network import Pod, allowed, enters, leaves, outside, pod_of
from our_services import SETTINGS
from pod_files import Enter, with_secrets
from rendering import CHARTS, HOLDFAST, Json, Rendering, Values, Workload, copy_of, merge, nested, render, values_of
from wiring import selected

type Edge = tuple[str, str, int]

BESIDE = render(CHARTS / "observability", release="observability")
COLLECTOR = nested("config.telemetry.otlp_endpoint", value="http://observability-collector:4318")
INGRESS = merge(nested("ingress.enabled", value=True), nested("ingress.hosts.notifications", value=""))
INSTALLATIONS: dict[str, Values] = {
    "values.yaml": {},
    "values-prod.yaml": values_of(HOLDFAST, "values-prod.yaml"),
    "with spans and an Ingress": merge(COLLECTOR, INGRESS),
    "without helm test": nested("helmTest.enabled", value=False),
    "with Locust": nested("load.enabled", value=True),
    "other ports": merge(
        nested("postgres.enabled", value=False),
        nested("config.database", value={"host": "db.example.com", "port": 6432}),
        nested("valkey.enabled", value=False),
        nested("config.redis.host", value="redis.example.com"),
        nested("services.orders.env", value={"HOLDFAST_REDIS__PORT": "6380"}),
        nested("services.payments.config.provider.base_url", value="https://provider.example.com:8443"),
        nested("services.notifications.config.webhooks.egress.allowed_ports", value=[443, 8443]),
    ),
}
PUBLIC, PRIVATE = ("9.9.9.9", "2620:fe::fe"), ("10.9.9.9", "169.254.169.254", "fd00::9")
KUBE_DNS = Pod(name="kube-dns", labels={"k8s-app": "kube-dns"}, namespace="kube-system")
INGRESS_CONTROLLER = Pod(name="ingress", labels={"app": "ingress-nginx"}, namespace="ingress-nginx")
STRANGERS = (
    Pod(name="a neighbour", labels={"app": "shop"}),
    Pod(
        name="an API of another release", labels={"app.kubernetes.io/name": "orders", "app.kubernetes.io/instance": "x"}
    ),
    Pod(name="a pod of another namespace", labels={"app": "shop"}, namespace="other"),
    outside("9.9.9.9"),
    outside("10.9.9.9"),
)


@pytest.fixture(scope="module", params=INSTALLATIONS.values(), ids=INSTALLATIONS)
def installed(request: pytest.FixtureRequest) -> Rendering:
    return with_secrets(render(HOLDFAST, request.param))


def edges(rendering: Rendering) -> set[Edge]:
    """Every call between two pods, of the release or beside it, that both sides let pass."""
    ours = rendering.workloads
    return {
        (caller.name, called.name, port)
        for caller in (*ours, *BESIDE.workloads)
        for called in (*ours, *BESIDE.workloads)
        for port in ports(called)
        if (caller in ours or called in ours) and allowed(rendering, pod_of(caller), pod_of(called), port)
    }


def real_edges(rendering: Rendering, calls: set[Call]) -> set[Edge]:
    """The same from the calls: to the pods behind the Services that hosts name, and from who scrapes."""
    found = {(call.by, pod.name, port) for call in calls for pod, port in behind(rendering, call)}
    found |= {
        ("Deployment/observability-prometheus", it.name, int(it.annotations["prometheus.io/port"]))
        for it in rendering.workloads
        if it.annotations.get("prometheus.io/scrape") == "true"
    }
    return found


def behind(rendering: Rendering, call: Call) -> Iterator[tuple[Workload, int]]:
    for services in (rendering, BESIDE):
        for service in services.of_kind("Service"):
            if service["metadata"]["name"] == call.host:
                (workload,) = selected(services, service["spec"]["selector"])
                (target,) = (it["targetPort"] for it in service["spec"]["ports"] if it["port"] == call.port)
                yield workload, named_ports(workload)[target]


def named_ports(workload: Workload) -> dict[str, int]:
    return {it["name"]: it["containerPort"] for one in workload.containers for it in one.get("ports", [])}


def ports(workload: Workload) -> set[int]:
    return set(named_ports(workload).values())


def problems(rendering: Rendering, enter: Enter) -> list[str]:
    calls = calls_of(rendering, enter)
    found, real = edges(rendering), real_edges(rendering, calls)
    return [
        *(f"{caller} cannot call {called}:{port}" for caller, called, port in sorted(real - found)),
        *(f"{caller} may call {called}:{port} and never does" for caller, called, port in sorted(found - real)),
        *_of_outside(rendering, calls),
        *_of_names(rendering, calls),
    ]


def _of_outside(rendering: Rendering, calls: set[Call]) -> Iterator[str]:
    """Hosts that are nobody's here are reached at their port, wherever they are; customers' on public addresses."""
    ports = {22, 80, 443, 5432, 6379, 8000, 9000} | {call.port for call in calls}
    for workload in rendering.workloads:
        named = {it.port for it in calls if it.by == workload.name and it.host and not [*behind(rendering, it)]}
        public = {it.port for it in calls if it.by == workload.name and not it.host}
        for address in (*PUBLIC, *PRIVATE):
            expected = named | (public if address in PUBLIC else set())
            out = {port for port in ports if leaves(rendering, pod_of(workload), outside(address), port)}
            if out != expected:
                yield f"{workload.name} reaches {sorted(out)} of {address}, and calls {sorted(expected)}"


def _of_names(rendering: Rendering, calls: set[Call]) -> Iterator[str]:
    for workload in rendering.workloads:
        asks = any(call.by == workload.name for call in calls)
        for protocol in ("UDP", "TCP"):
            if allowed(rendering, pod_of(workload), KUBE_DNS, 53, protocol=protocol) != asks:
                yield f"{workload.name}: asking for names by {protocol} should be {asks}"


def test_every_call_is_allowed_and_whatever_is_allowed_is_a_call(installed: Rendering, enter: Enter) -> None:
    assert len(calls_of(installed, enter)) >= 20
    assert problems(installed, enter) == []


def test_on_a_developers_cluster_the_simulated_customer_is_called_as_well(enter: Enter) -> None:
    rendering = render(HOLDFAST, values_of(HOLDFAST, "values-dev.yaml"))
    calls = calls_of(rendering, enter)
    customer = ("Deployment/holdfast-notifications-worker", "StatefulSet/holdfast-customer-endpoint", 8103)
    assert edges(rendering) == real_edges(rendering, calls) | {customer}
    worker = pod_of(rendering.workload(customer[0]))
    # What the settings allow beside the public internet.
    reached = {it for it in (*PUBLIC, *PRIVATE) if leaves(rendering, worker, outside(it), 8103)}
    assert reached == {*PUBLIC, "10.9.9.9"}


def test_only_the_ingress_controller_comes_in_from_outside_and_only_to_what_is_published(installed: Rendering) -> None:
    backends = {
        path["backend"]["service"]["name"]
        for ingress in installed.of_kind("Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    for workload in installed.workloads:
        pod = pod_of(workload)
        opened = {port for port in ports(workload) if enters(installed, INGRESS_CONTROLLER, pod, port)}
        assert opened == ({8000} if workload.object["metadata"]["name"] in backends else set()), workload.name
        for stranger in STRANGERS:
            assert [it for it in ports(workload) if enters(installed, stranger, pod, it)] == [], (stranger, pod)


def test_a_pod_of_a_new_kind_may_nothing_until_somebody_says_so(platform: Rendering) -> None:
    new = Pod(name="new", labels={"app.kubernetes.io/instance": "holdfast", "app.kubernetes.io/name": "new"})
    assert not leaves(platform, new, outside("9.9.9.9"), 443)
    assert not leaves(platform, new, KUBE_DNS, 53, protocol="UDP")
    assert not enters(platform, STRANGERS[0], new, 8000)


def test_the_policies_of_a_release_are_nobody_elses(platform: Rendering) -> None:
    for neighbour in STRANGERS[:2]:
        assert leaves(platform, neighbour, outside("9.9.9.9"), 443)
        assert enters(platform, outside("9.9.9.9"), neighbour, 80)


def test_without_them_everything_is_open_as_the_network_has_it() -> None:
    assert render(HOLDFAST, nested("networkPolicies.enabled", value=False)).of_kind("NetworkPolicy") == []


@pytest.mark.parametrize(
    ("peer", "host", "port"),
    [
        ("database", nested("config.database.host", value="db"), 5432),
        ("redis", nested("config.redis.host", value="redis"), 6379),
        ("provider", nested("services.payments.config.provider.base_url", value="https://provider"), 443),
        ("mail", nested("services.notifications.config.smtp", value={"host": "mail", "port": 25}), 25),
        ("collector", COLLECTOR, 4318),
    ],
)
def test_who_is_ones_own_can_be_named_and_nobody_else_is_reached_there(peer: str, host: Values, port: int) -> None:
    named = nested(f"networkPolicies.peers.{peer}", value=[{"ipBlock": {"cidr": "192.0.2.0/24"}}])
    rendering = render(HOLDFAST, values_of(HOLDFAST, "values-prod.yaml"), host, named)
    workers = [pod_of(it) for it in rendering.workloads if it.labels["app.kubernetes.io/component"] == "worker"]
    assert any(leaves(rendering, worker, outside("192.0.2.7"), port) for worker in workers)
    others = [it for it in workers if leaves(rendering, it, outside("198.51.100.7"), port)]
    assert others == []


SMALL = ("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
"""Of IANA's networks for special purposes, those that the steps below pass over."""


def test_customers_are_reached_exactly_where_the_guard_of_the_process_lets_requests_go(platform: Rendering) -> None:
    """In steps of a /8 of IPv4 and a /16 of IPv6, and on both sides of the end of each network that is excepted."""
    worker = pod_of(platform.workload("Deployment/holdfast-notifications-worker"))
    excepted = [network for block in customers(platform) for network in block["except"]]
    addresses = {f"{first}.{second}.0.1" for first in range(256) for second in (0, 31, 64, 88, 168, 254)}
    addresses |= {f"{first:x}::1" for first in range(0x1F00, 0x4100)} | {"::1", "fe80::1", "fd00::1", "ff02::1"}
    addresses |= {"168.63.129.16", "169.254.169.254", "100.100.100.200", "192.0.0.192"}  # clouds' metadata services
    addresses |= {str(address) for network in (*excepted, *SMALL) for address in around(network)}
    wrong = [it for it in addresses if leaves(platform, worker, outside(it), 443) != is_public(it)]
    assert wrong == []


def test_networks_that_the_settings_refuse_are_not_reached_and_each_exception_is_one() -> None:
    refused = ["9.9.9.0/24", "2620:fe::/48", "fd00::/8"]
    place = "services.notifications.config.webhooks.egress.refused_networks"
    rendering = render(HOLDFAST, nested(place, value=refused))
    worker = pod_of(rendering.workload("Deployment/holdfast-notifications-worker"))
    assert [it for it in PUBLIC if leaves(rendering, worker, outside(it), 443)] == []
    assert leaves(rendering, worker, outside("1.1.1.1"), 443)
    for block in customers(rendering):
        # An API server takes only exceptions that are part of the block.
        assert [it for it in block["except"] if not is_part(it, block["cidr"])] == []


def customers(rendering: Rendering) -> list[Json]:
    policy = rendering.get("NetworkPolicy", "holdfast-notifications-worker")
    return [it["ipBlock"] for rule in policy["spec"]["egress"] for it in rule.get("to", []) if "ipBlock" in it]


def is_part(network: str, whole: str) -> bool:
    inner, outer = ip_network(network), ip_network(whole)
    return inner.version == outer.version and inner[0] in outer and inner[-1] in outer


def around(network: str) -> Iterator[IPv4Address | IPv6Address]:
    """The first and the last address of a network, and the two beside it."""
    found = ip_network(network)
    yield from (found[0], found[-1])
    yield from (found[0] - 1, found[-1] + 1) if network not in {"0.0.0.0/8", "240.0.0.0/4"} else ()


def is_public(address: str) -> bool:
    try:
        check_address(address, EgressSettings())
    except DestinationRefused:
        return False
    return True


def test_every_setting_that_names_a_place_is_known_here() -> None:
    """Or a new dependency would have no edge and no test that misses it."""
    names = {name for settings in SETTINGS.values() for name in settings_of(settings)}
    places = {name for name in names if name.rpartition(".")[2].endswith(("host", "url", "endpoint"))}
    assert places - {"http.host", "management.host", "http.documentation_url"} == PLACES


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("_edges.tpl", "range list $api $worker $migration", "range list $api $worker", "-migrate-1"),
        ("_edges.tpl", '"orders/api" "orders/worker"', '"orders/api"', "holdfast-orders-worker cannot call"),
        ("_edges.tpl", '"orders/api" "orders/worker"', '"orders/worker"', "holdfast-orders cannot call"),
        ("_edges.tpl", '"from" "payments/worker"', '"from" "orders/worker"', "holdfast-payments-worker cannot call"),
        ("_edges.tpl", '"smtp.port" 25', '"smtp.prt" 25', "cannot call StatefulSet/holdfast-mailbox:8125"),
        ("_edges.tpl", '"from" "payment-provider/server"', '"from" "mailbox/server"', "payment-provider cannot call"),
        ("_edges.tpl", '"from" "customer/test"', '"from" "customer/server"', "place-orders cannot call"),
        ("_edges.tpl", '"from" $peers.prometheus', '"from" list', "may call Deployment/holdfast-orders:9000"),
        ("_edges.tpl", '"10.0.0.0/8" ', "", "reaches [443] of 10.9.9.9"),
        ("networkpolicy.yaml", "protocol: UDP, port: 53", "protocol: UDP, port: 54", "for names by UDP"),
        ("networkpolicy.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "of 9.9.9.9"),
        ("networkpolicy.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: [Egress]", "and never does"),
    ],
)  # fmt: skip
def test_an_edge_that_is_missing_or_too_many_is_found(
    enter: Enter, tmp_path: Path, file: str, old: str, new: str, complaint: str
) -> None:
    broken = render(copy_of(HOLDFAST, tmp_path, {f"templates/{file}": (old, new)}))
    assert any(complaint in problem for problem in problems(broken, enter)), problems(broken, enter)
