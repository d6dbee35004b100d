"""charts/observability: its programs are wired to each other and to the platform."""

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import chassis
import helm_python
import pytest
import yaml
from api_server import refusals
from pod_security import house_problems, restricted_problems
from prometheus_client import REGISTRY
from rendering import CHARTS, HOLDFAST, Json, Rendering, Workload, leaves, lint, nested, render, schema_problems
from wiring import reference_problems, selector_problems, service_problems

OBSERVABILITY = CHARTS / "observability"
PROGRAMS = ("collector", "jaeger", "prometheus", "alertmanager", "victorialogs", "grafana")
COLLECTORS = ("collector", "logs", "jaeger")
"""Jaeger 2 is configured as a collector is."""
LOGS = "logs"
"""The one that is on each node."""
NUMBER = "__meta_kubernetes_pod_container_port_number"
ANNOTATIONS = ("prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path")


@pytest.fixture(scope="module")
def observability() -> Rendering:
    return render(OBSERVABILITY, release="observability")


def configuration(rendering: Rendering, program: str, file: str = "") -> Json:
    data = rendering.get("ConfigMap", f"observability-{program}")["data"]
    return yaml.safe_load(data[file or f"{program}.yaml"])


def workload(rendering: Rendering, program: str) -> Workload:
    kind = "DaemonSet" if program == LOGS else "Deployment"
    return rendering.workload(f"{kind}/observability-{program}")


def container_ports(workload: Workload) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for each in workload.containers for port in each.get("ports", [])}


def variables(workload: Workload) -> dict[str, str]:
    (container,) = workload.containers
    return {variable["name"]: variable["value"] for variable in container["env"]}


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def test_kubernetes_accepts_every_object(observability):
    assert list(chain.from_iterable(map(schema_problems, observability.objects))) == []
    assert refusals(observability) == []
    assert lint(OBSERVABILITY) == []


def test_every_reference_and_selector_meets_what_it_means(observability):
    assert service_problems(observability) == []
    assert selector_problems(observability) == []
    assert reference_problems(observability) == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_pods_are_restricted_and_only_prometheus_has_a_token(observability, program):
    found = workload(observability, program)
    assert restricted_problems(found) == []
    assert house_problems(found, may_ask_kubernetes=program == "prometheus") == []


def test_prometheus_may_read_the_pods_of_its_namespace_and_nothing_else(observability):
    assert workload(observability, "prometheus").pod["serviceAccountName"] == "observability-prometheus"
    assert observability.get("ServiceAccount", "observability-prometheus")["automountServiceAccountToken"] is False
    assert observability.get("Role", "observability-prometheus")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    binding = observability.get("RoleBinding", "observability-prometheus")
    assert binding["roleRef"]["name"] == "observability-prometheus"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "observability-prometheus", "namespace": "holdfast"}
    ]
    assert observability.of_kind("ClusterRole", "ClusterRoleBinding") == []


@pytest.mark.parametrize("program", COLLECTORS)
def test_every_component_is_defined_and_used(observability, program):
    config = configuration(observability, program)
    used: dict[str, set[str]] = {"extensions": set(config["service"]["extensions"])}
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            used.setdefault(kind, set()).update(names)
    defined = {kind: set(components) for kind, components in config.items() if kind != "service"}
    assert used == defined


def test_the_collector_limits_memory_before_anything_else(observability):
    for program, signal in (("collector", "traces"), ("logs", "logs")):
        pipeline = configuration(observability, program)["service"]["pipelines"][signal]
        assert pipeline["processors"][0] == "memory_limiter"


def test_jaeger_keeps_and_shows_the_same_traces(observability):
    config = configuration(observability, "jaeger")
    (backend,) = config["extensions"]["jaeger_storage"]["backends"]
    assert config["extensions"]["jaeger_query"]["storage"]["traces"] == backend
    assert config["exporters"]["jaeger_storage_exporter"]["trace_storage"] == backend


@pytest.mark.parametrize("program", [*PROGRAMS, LOGS])
def test_programs_listen_where_services_probes_and_prometheus_look(observability, program):
    found = workload(observability, program)
    ports = container_ports(found)
    (container,) = found.containers
    probed = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probed <= ports.keys()
    assert int(found.annotations["prometheus.io/port"]) in ports.values()
    if program in COLLECTORS:
        assert set(listening(configuration(observability, program))) == set(ports.values())


def listening(config: Json) -> Iterator[int]:
    """The ports that a collector's configuration opens."""
    places = {"receivers": config["receivers"], "extensions": config["extensions"]}
    for path, value in leaves(places):
        if path.endswith(".endpoint"):
            yield port_of(value)
    (reader,) = config["service"]["telemetry"]["metrics"]["readers"]
    yield reader["pull"]["exporter"]["prometheus"]["port"]


def test_the_collector_sends_to_jaegers_service(observability):
    assert configuration(observability, "collector")["exporters"]["otlp_http/jaeger"]["endpoint"] == "${env:JAEGER}"
    endpoint = variables(workload(observability, "collector"))["JAEGER"]
    jaeger = observability.get("Service", "observability-jaeger")
    name, port = re.fullmatch(r"http://([a-z-]+):(\d+)", endpoint).groups()
    assert name == "observability-jaeger"
    assert int(port) in {each["port"] for each in jaeger["spec"]["ports"] if each["name"] == "otlp-http"}


def test_notes_name_the_address_that_the_platform_sends_spans_to(observability):
    (port,) = observability.get("Service", "observability-collector")["spec"]["ports"]
    assert f"http://observability-collector:{port['port']}" in observability.notes


def test_a_changed_setting_rolls_the_pod():
    before, after = (
        render(OBSERVABILITY, values, release="observability") for values in ({}, nested("traces.kept", value=10))
    )
    changed = {program for program in PROGRAMS if workload(before, program) != workload(after, program)}
    assert changed == {"jaeger"}
    assert variables(workload(after, "jaeger"))["TRACES_KEPT"] == "10"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (nested("metrics.intervall", value="15s"), "intervall"),
        (nested("jaeger.image", value=""), "image"),
        (nested("jaeger.image", value="docker.io/jaegertracing/jaeger"), "image"),
        (nested("prometheus.resources.limits", value={"memroy": "1Gi"}), "memroy"),
        (nested("loki", value={}), "loki"),
        (nested("alertmanager.receiver", value={"webhooks": []}), "webhooks"),
        (nested("traces.sharePercent", value=101), "sharePercent"),
        (nested("logs.namespace", value="Not A Name"), "namespace"),
        (nested("grafana.logsPlugin", value="the latest"), "logsPlugin"),
        (nested("metrics.interval", value="often"), "interval"),
    ],
)
def test_wrong_values_are_refused_by_name(values, named):
    with pytest.raises(helm_python.HelmError, match=named):
        render(OBSERVABILITY, values, release="observability")


# --- what Prometheus makes of the pods ---


@pytest.fixture(scope="module")
def pods(platform: Rendering, observability: Rendering) -> list[Workload]:
    return [*platform.workloads, *observability.workloads]


def test_what_asks_to_be_scraped_names_a_port_that_its_pod_has(pods):
    """Prometheus finds a pod once per declared port and keeps the one in the annotation."""
    asking = [found for found in pods if found.annotations.get(ANNOTATIONS[0]) == "true"]
    assert len(asking) == 4 * 2 + len(PROGRAMS) + 1
    for found in asking:
        assert int(found.annotations["prometheus.io/port"]) in container_ports(found).values(), found.name
        assert found.annotations["prometheus.io/path"] == "/metrics"


def test_rules_read_annotations_and_labels_that_pods_have(observability, pods):
    (job,) = configuration(observability, "prometheus", "scrape.yaml")["scrape_configs"]
    read = set(chain.from_iterable(rule["source_labels"] for rule in job["relabel_configs"]))
    known = {f"__meta_kubernetes_pod_{it}" for it in ("name", "phase")}
    known |= {meta("annotation", name) for name in ANNOTATIONS}
    known |= {meta("label", name) for found in pods for name in found.labels}
    assert read <= known
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"own_namespace": True}}]


def test_labels_of_the_platforms_metrics_and_of_their_pods_do_not_collide(observability):
    """The one that does, `job`, stays what the platform says: Prometheus' own is the same everywhere."""
    for module in pkgutil.walk_packages(chassis.__path__, "chassis."):
        if not re.search("migrations|__main__", module.name):
            importlib.import_module(module.name)
    metrics = {label for collector in REGISTRY._names_to_collectors.values() for label in collector_labels(collector)}
    (job,) = configuration(observability, "prometheus", "scrape.yaml")["scrape_configs"]
    added = {rule["target_label"] for rule in job["relabel_configs"] if rule.get("action", "replace") == "replace"}
    assert metrics & (added | {"job", "instance"}) == {"job"}
    assert job["honor_labels"] is True


def collector_labels(collector: object) -> tuple[str, ...]:
    return getattr(collector, "_labelnames", ())


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here: `apt-get install prometheus`")
def test_prometheus_scrapes_each_process_once_under_its_name(observability, pods, tmp_path):
    config = configuration(observability, "prometheus", "scrape.yaml")
    (job,) = config["scrape_configs"]
    del job["kubernetes_sd_configs"]
    evicted = discovered(pods[0], phase="Failed")
    job["static_configs"] = list(chain(evicted, *(discovered(found) for found in pods)))
    scraped = scraped_by(config, tmp_path)
    assert sorted((each["service"], each.get("role", ""), each["__metrics_path__"]) for each in scraped) == sorted(
        (found.labels["app.kubernetes.io/name"], found.labels.get("app.kubernetes.io/component", ""), "/metrics")
        for found in pods
        if ANNOTATIONS[0] in found.annotations
    )
    assert {port_of(each["__address__"]) for each in scraped if "role" in each} == {9000}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here: `apt-get install prometheus`")
def test_prometheus_accepts_its_configuration(observability, tmp_path):
    for name, text in observability.get("ConfigMap", "observability-prometheus")["data"].items():
        (tmp_path / name).write_text(text)
    subprocess.run(["promtool", "check", "config", "--lint=all", tmp_path / "prometheus.yaml"], check=True)


def discovered(found: Workload, phase: str = "Running") -> list[Json]:
    """What Prometheus' discovery says of one pod: a target per port of each container, or for one without."""
    name = found.object["metadata"]["name"]
    of_pod = {meta("annotation", key): value for key, value in found.annotations.items()}
    of_pod |= {meta("label", key): value for key, value in found.labels.items()}
    of_pod |= {"__meta_kubernetes_pod_name": f"{name}-abc12", "__meta_kubernetes_pod_phase": phase}
    targets = []
    for container in found.containers:
        numbers = [port["containerPort"] for port in container.get("ports", [])]
        targets += [
            {"targets": [f"{name}:{number}"], "labels": of_pod | {NUMBER: str(number)}} for number in numbers
        ] or [{"targets": [name], "labels": of_pod}]
    return targets


def scraped_by(config: Json, folder: Path) -> Sequence[Json]:
    """The labels of what the real Prometheus would scrape, after its rules."""
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    command = ["promtool", "check", "service-discovery", "--timeout=3s", path, "pods"]  # it takes all of that time
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [each["labels"] for each in json.loads(answer) if each["labels"]]


def meta(kind: str, name: str) -> str:
    """`prometheus.io/port` → `__meta_kubernetes_pod_annotation_prometheus_io_port`."""
    return f"__meta_kubernetes_pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', name)}"


# --- what the platform sends ---


def test_the_platform_chart_takes_the_collectors_address(observability):
    endpoint = re.search(r"http://observability-collector:\d+", observability.notes).group()
    told = render(HOLDFAST, nested("config.telemetry.otlp_endpoint", value=endpoint))
    common = told.configuration("common")
    assert common["telemetry"]["otlp_endpoint"] == endpoint
