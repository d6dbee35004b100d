"""The profile `observability` of compose: the chart's programs, images and files, under the same bounds as the rest."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import FILE, INFRA, PROCESSES, megabytes, service_of
from holdfast_local.compose_secrets import make_secrets
from pod_security import quantity
from rendering import Workload, render
from test_observability import LOGS, OBSERVABILITY, PROGRAMS, variables, workload

OBSERVING: Mapping[str, Any] = yaml.safe_load((INFRA / "compose.observability.yaml").read_text(encoding="utf-8"))
CONTAINERS: Mapping[str, Any] = OBSERVING["services"]
CHART = render(OBSERVABILITY, release="observability")


def in_chart(name: str) -> Workload:
    return workload(CHART, name)


def mounted(name: str) -> dict[str, str]:
    """Path in the container → source, of what is mounted from the tree."""
    volumes = [volume for volume in CONTAINERS[name].get("volumes", []) if isinstance(volume, str)]
    return {where: source for source, where, *_ in (volume.split(":") for volume in volumes)}


def test_the_platforms_file_includes_it_and_starts_none_of_it_by_itself() -> None:
    assert FILE["include"] == ["compose.observability.yaml"]
    assert CONTAINERS.keys() == {*PROGRAMS, LOGS}
    assert {tuple(it["profiles"]) for it in CONTAINERS.values()} == {("observability",)}
    assert OBSERVING["networks"] == FILE["networks"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_program_is_the_charts_one(name: str) -> None:
    (container,) = in_chart(name).containers
    ours = CONTAINERS[name]
    assert container["image"] == f"docker.io/{ours['image']}"
    user = in_chart(name).pod["securityContext"]["runAsUser"]
    assert ours["user"] == f"{user}:{user}"
    given = {word for word in container.get("args", []) if "config" in word or "listen" in word.lower()}
    assert given <= set(ours.get("command", []))
    limit = quantity(container["resources"]["limits"]["memory"])
    assert megabytes(ours["mem_limit"]) * 2**20 == pytest.approx(int(limit), rel=0.05)


@pytest.mark.parametrize("name", CONTAINERS)
def test_it_is_bounded_and_may_do_little(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["pids_limit"] <= 100
    assert not {"privileged", "cap_add", "network_mode", "pid", "env_file"} & set(container)
    for volume in container.get("volumes", []):
        named = isinstance(volume, str) and volume.split(":")[0] in OBSERVING["volumes"]
        assert named or (volume.endswith(":ro") if isinstance(volume, str) else volume["read_only"])
    for port in container.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{LOCAL_\w+_PORT:-(\d+)\}:\1", port)
    assert ("published" in container["networks"]) == ("ports" in container)


@pytest.mark.parametrize("name", CONTAINERS)
def test_its_configuration_is_the_charts_file(name: str) -> None:
    files = OBSERVABILITY / "files"
    own = {"scrape.yaml", "alertmanagers.yaml"}
    items = {
        item["path"]
        for volume in in_chart(name).pod["volumes"]
        if volume["name"] == "config"
        for item in volume["configMap"].get("items", [{"path": f"{name}.yaml"}])
    }
    found = {}
    for where, source in mounted(name).items():
        if where.startswith("/etc/observability/"):
            path = (INFRA / source).resolve()
            assert path.exists(), source
            assert path.is_relative_to(files) or path.name in own
            inside = [f"/{each.name}" for each in path.iterdir()] if path.is_dir() else [""]
            found |= {f"{where}{each}".removeprefix("/etc/observability/"): path for each in inside}
    assert found.keys() == items


@pytest.mark.parametrize("name", CONTAINERS)
def test_it_is_given_the_variables_that_the_chart_gives(name: str) -> None:
    (container,) = in_chart(name).containers
    assert set(CONTAINERS[name].get("environment", {})) == (
        set(variables(in_chart(name))) if container.get("env") else set()
    )


def test_addresses_are_containers_and_their_ports() -> None:
    for name, container in CONTAINERS.items():
        for value in container.get("environment", {}).values():
            if address := re.fullmatch(r"http://([a-z]+):(\d+)", str(value)):
                services = CHART.get("Service", f"observability-{address[1]}")["spec"]["ports"]
                assert int(address[2]) in {port["port"] for port in services}, f"{name}: {value}"


def test_prometheus_asks_every_process_and_program_under_its_name() -> None:
    jobs = yaml.safe_load((INFRA / "compose" / "scrape.yaml").read_text())["scrape_configs"]
    targets = {it["targets"][0]: it["labels"] for job in jobs for it in job["static_configs"]}
    processes = {f"{name}:9000": {"service": service_of(name), "role": name.rpartition("-")[2]} for name in PROCESSES}
    programs = {f"{name}:{in_chart(name).annotations['prometheus.io/port']}": {"service": name} for name in CONTAINERS}
    assert targets == processes | programs
    (alertmanagers,) = yaml.safe_load((INFRA / "compose" / "alertmanagers.yaml").read_text())
    assert alertmanagers["targets"] == ["alertmanager:9093"]


def test_processes_send_their_spans_where_the_shell_says() -> None:
    for name in PROCESSES:
        assert FILE["services"][name]["environment"] == ["HOLDFAST_TELEMETRY__OTLP_ENDPOINT"]
    assert "HOLDFAST_TELEMETRY__OTLP_ENDPOINT=http://collector:4318" in (INFRA.parent / "Makefile").read_text()


def test_grafanas_password_is_made_once(tmp_path: Path) -> None:
    make_secrets(tmp_path / "compose")
    path = tmp_path / "compose" / "grafana" / "admin-password"
    first = path.read_text()
    assert len(first) >= 32
    make_secrets(tmp_path / "compose")
    assert path.read_text() == first
