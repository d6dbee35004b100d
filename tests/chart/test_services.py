"""Everything in the platform finds what it needs: Services their pods, pods their files, settings their addresses."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from our_services import SERVICES
from pod_files import decoded
from rendering import CHARTS, HOLDFAST, Rendering, copy_of, leaves, render
from wiring import reference_problems, selector_problems, service_problems

BREAKS = [
    ("service.yaml", "targetPort: http", "targetPort: htttp", "names no port 'htttp'"),
    ("_helpers.tpl", "app.kubernetes.io/component: {{ index . 2 }}", "", "selects the pods of ['Deployment/"),
    ("deployment.yaml", "{{ $common }}", "holdfast-comon", "no ConfigMap/holdfast-comon"),
    ("job.yaml", "{key: database__password,", "{key: database__passwrod,", "has no key database__passwrod"),
    ("job.yaml", "serviceAccountName: {{ $.Release.Name }}", "serviceAccountName: jobs", "no ServiceAccount/jobs"),
]


def elsewhere(rendering: Rendering) -> set[str]:
    """The Secrets that somebody else makes, by what the values say."""
    given = [value for path, value in leaves(rendering.values) if re.search(r"\.existing\w*Secret$", path)]
    return {f"Secret/{name}" for name in [*given, *rendering.values["image"]["pullSecrets"]] if name}


def problems(rendering: Rendering) -> list[str]:
    return [
        *service_problems(rendering),
        *selector_problems(rendering),
        *reference_problems(rendering, existing=elsewhere(rendering)),
    ]


def addresses(rendering: Rendering) -> dict[str, tuple[str, int]]:
    """Host and port of everything that a configuration or an argument names."""
    found = {}
    for config_map in rendering.of_kind("ConfigMap"):
        if text := decoded(config_map).get("config.yaml"):
            config = yaml.safe_load(text)
            name = config_map["metadata"]["name"]
            found |= {f"{name}: {path}": _host_and_port(value) for path, value in leaves(config) if "://" in str(value)}
            for group, port in (("database", 5432), ("redis", 6379), ("smtp", 25)):
                if host := config.get(group, {}).get("host"):
                    found[f"{name}: {group}.host"] = (host, config[group].get("port", port))
    for workload in rendering.workloads:
        words = [word for container in workload.containers for word in container.get("args", []) if "://" in str(word)]
        found |= {f"{workload.name}: {word}": _host_and_port(word.partition("=")[2] or word) for word in words}
    return found


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    return parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def unreachable(rendering: Rendering) -> list[str]:
    """Addresses inside the namespace at which no Service of ours listens. A name with a dot is somewhere else."""
    beside = render(CHARTS / "observability", release="observability")
    ports = {
        (service["metadata"]["name"], port["port"])
        for service in (*rendering.of_kind("Service"), *beside.of_kind("Service"))
        for port in service["spec"]["ports"]
    }
    return [
        f"{by} → {host}:{port}"
        for by, (host, port) in addresses(rendering).items()
        if "." not in host and (host, port) not in ports
    ]


def test_every_service_selector_and_reference_finds_exactly_what_it_means(rendering: Rendering) -> None:
    assert problems(rendering) == []


@pytest.mark.parametrize(("file", "old", "new", "complaint"), BREAKS)
def test_a_wire_that_is_cut_is_found(tmp_path: Path, file: str, old: str, new: str, complaint: str) -> None:
    broken = render(copy_of(HOLDFAST, tmp_path, {f"templates/{file}": (old, new)}))
    assert any(complaint in problem for problem in problems(broken)), problems(broken)


def test_every_address_in_the_configuration_is_a_service_of_this_release_or_elsewhere(rendering: Rendering) -> None:
    assert len(addresses(rendering)) >= 5
    assert unreachable(rendering) == []


def test_a_release_of_another_name_is_connected_as_well() -> None:
    shop = render(HOLDFAST, release="shop", namespace="trade")
    assert problems(shop) == unreachable(shop) == []
    assert {host.partition("-")[0] for host, _ in addresses(shop).values()} == {"shop"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-payments:8000", "-payment:8000"),
        ("-payment-provider:8101", "-payment-provider:8102"),
        ('-valkey"', '-redis"'),
    ],
)
def test_an_address_that_is_nobodys_is_found(tmp_path: Path, old: str, new: str) -> None:
    broken = render(copy_of(HOLDFAST, tmp_path, {"values.yaml": (old, new)}))
    assert len(unreachable(broken)) == 1


def test_the_services_have_the_names_and_ports_of_the_design(platform: Rendering) -> None:
    found = {
        service["metadata"]["name"]: {port["name"]: port["port"] for port in service["spec"]["ports"]}
        for service in platform.of_kind("Service")
    }
    expected = {f"holdfast-{name}": {"http": 8000} for name in SERVICES}
    for name in SERVICES:
        expected |= {f"holdfast-{name}{role}-management": {"management": 9000} for role in ("", "-worker")}
    assert found == expected | {
        "holdfast-postgres": {"postgres": 5432},
        "holdfast-valkey": {"valkey": 6379},
        "holdfast-payment-provider": {"http": 8101},
        "holdfast-mailbox": {"http": 8102, "smtp": 8125},
        "holdfast-customer-endpoint": {"http": 8103},
    }


def test_no_public_service_leads_to_a_management_port(rendering: Rendering) -> None:
    for service in rendering.of_kind("Service"):
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        assert ("management" in ports) == service["metadata"]["name"].endswith("-management")
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
