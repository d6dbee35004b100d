"""charts/observability: who may connect to whom, what reads the logs, what Grafana and Alertmanager are given."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pod_security import house_problems, restricted_problems
from rendering import CHARTS, Json, Rendering, Workload, nested, render
from test_observability import LOGS, OBSERVABILITY, PROGRAMS, configuration, container_ports, variables, workload

FILES = OBSERVABILITY / "files"
RELEASE = "observability"
ELSEWHERE = nested("logs.namespace", value="logs")


@pytest.fixture(scope="module")
def observability() -> Rendering:
    return render(OBSERVABILITY, release=RELEASE)


# --- who may connect to whom ---

CALLS = {
    ("platform", "collector", 4318),
    ("collector", "jaeger", 4318),
    ("logs", "victorialogs", 9428),
    ("prometheus", "alertmanager", 9093),
    ("grafana", "prometheus", 9090),
    ("grafana", "jaeger", 16686),
    ("grafana", "victorialogs", 9428),
    ("grafana", "alertmanager", 9093),
}
"""What the configurations say that each connects to, beside Prometheus, which asks everybody for metrics."""
SCRAPED = {
    ("prometheus", "collector", 8888),
    ("prometheus", "logs", 8888),
    ("prometheus", "jaeger", 8888),
    ("prometheus", "prometheus", 9090),
    ("prometheus", "alertmanager", 9093),
    ("prometheus", "victorialogs", 9428),
    ("prometheus", "grafana", 3000),
}


def policies(rendering: Rendering) -> dict[str, Json]:
    return {
        policy["metadata"]["name"].removeprefix(f"{RELEASE}-"): policy["spec"]
        for policy in rendering.of_kind("NetworkPolicy")
    }


def name_of(peer: Json) -> str:
    labels = peer["podSelector"].get("matchLabels", {})
    return labels.get("app.kubernetes.io/name", "platform" if labels else "everybody")


def edges(rendering: Rendering, direction: str) -> Iterator[tuple[str, str, int]]:
    """Caller, called and port of each edge that the policies of one side open."""
    side = {"ingress": "from", "egress": "to"}[direction]
    for name, spec in policies(rendering).items():
        for rule in spec[direction]:
            for peer in rule.get(side, []):
                for port in rule.get("ports", [{"port": 0}]):
                    other = name_of(peer)
                    yield (other, name, port["port"]) if direction == "ingress" else (name, other, port["port"])


def test_what_is_let_in_is_what_somebody_calls(observability):
    assert set(edges(observability, "ingress")) == CALLS | SCRAPED
    elsewhere = render(OBSERVABILITY, ELSEWHERE, release=RELEASE)
    assert set(edges(elsewhere, "ingress")) == CALLS | SCRAPED - {("prometheus", "logs", 8888)}


def test_what_is_let_out_is_what_each_calls(observability):
    out = set(edges(observability, "egress"))
    assert out == {edge for edge in CALLS if edge[0] != "platform"} | {("prometheus", "everybody", 0)}


def test_only_those_that_have_to_may_connect_to_the_world(observability):
    beyond = {
        name: sorted({port["port"] for rule in spec["egress"] if "to" not in rule for port in rule["ports"]} - {53})
        for name, spec in policies(observability).items()
    }
    assert beyond == {
        "collector": [],
        "logs": [],
        "jaeger": [],
        "victorialogs": [],
        "prometheus": [443, 6443],
        "alertmanager": [443],
        "grafana": [443],
    }
    plain = render(OBSERVABILITY, nested("grafana.logsPlugin", value=""), release=RELEASE)
    assert [rule for rule in policies(plain)["grafana"]["egress"] if "to" not in rule] == [
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    ]


def test_somebody_else_may_be_let_in_to_ask_prometheus():
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    asked = render(OBSERVABILITY, nested("prometheus.peers", value=[keda]), release=RELEASE)
    assert {"from": [keda], "ports": [{"port": 9090}]} in policies(asked)["prometheus"]["ingress"]


def test_edges_lead_to_ports_that_the_called_have(observability):
    for _, called, port in CALLS | SCRAPED:
        assert port in container_ports(workload(observability, called)).values()


def test_policies_are_left_out_where_somebody_else_makes_them():
    assert render(OBSERVABILITY, nested("networkPolicies", value=False)).of_kind("NetworkPolicy") == []


def test_nothing_is_routed_from_outside(observability):
    assert observability.of_kind("Ingress", "HTTPRoute") == []
    assert {service["spec"].get("type", "ClusterIP") for service in observability.of_kind("Service")} == {"ClusterIP"}


# --- logs ---


def test_whoever_reads_logs_is_root_in_name_only(observability):
    found = workload(observability, LOGS)
    assert restricted_problems(found) == [
        "DaemonSet/observability-logs: volume pods is a hostPath",
        *(problem for problem in restricted_problems(found) if "runAs" in problem),
    ]
    assert house_problems(found) == []
    (container,) = found.containers
    (pods,) = [mount for mount in container["volumeMounts"] if mount["name"] == "pods"]
    assert pods == {"name": "pods", "mountPath": "/var/log/pods", "readOnly": True}


def test_only_the_platforms_lines_are_read(observability):
    given = variables(workload(observability, LOGS))
    assert given["LOG_FILES"] == "/var/log/pods/holdfast_*/*/*.log"
    assert given["NOT_LOG_FILES"] == "/var/log/pods/holdfast_observability-*/*/*.log"
    (receiver,) = configuration(observability, LOGS)["receivers"].values()
    assert (receiver["include"], receiver["exclude"]) == (["${env:LOG_FILES}"], ["${env:NOT_LOG_FILES}"])


def test_lines_of_a_service_pass_the_filter_and_others_do_not(observability):
    (receiver,) = configuration(observability, LOGS)["receivers"].values()
    (rule,) = [operator["expr"] for operator in receiver["operators"] if operator["type"] == "filter"]
    pattern = json.loads(f'"{re.fullmatch(r'not \(body matches "(.*)"\)', rule)[1]}"')  # its strings escape as JSON's
    ours = '{"logger_name":"chassis.app.api","event":"process_started","service":"orders","level":"info"}'
    for line, passes in ((ours, True), ("LOG:  checkpoint starting: time", False), ('{"event": 1}', False)):
        assert bool(re.search(pattern, line)) is passes


def test_the_operator_that_takes_the_pod_from_the_path_is_given_the_path(observability):
    """Without it, the collector drops every line of every pod with an error of its own."""
    (receiver,) = configuration(observability, LOGS)["receivers"].values()
    (container,) = [operator for operator in receiver["operators"] if operator["type"] == "container"]
    assert container["add_metadata_from_filepath"] == "${env:IN_PODS}"
    assert receiver["include_file_path"] is True


def test_no_query_of_the_page_asks_for_the_field_that_became_the_message(observability):
    (receiver,) = configuration(observability, LOGS)["receivers"].values()
    (moved,) = [operator["from"] for operator in receiver["operators"] if operator["type"] == "move"]
    field = moved.removeprefix("attributes.")
    page = (CHARTS.parent / "docs" / "tutorial" / "observability.md").read_text()
    queries = re.findall(r"^\| `([^`]+)` \|", page.split("## Logs")[1].split("## ")[0], re.MULTILINE)
    assert len(queries) == 3
    assert [query for query in queries if f"{field}:" in query] == []


def test_whoever_reads_logs_may_live_in_another_namespace():
    elsewhere = render(OBSERVABILITY, ELSEWHERE, release=RELEASE)
    there = {
        (found["kind"], found["metadata"]["name"]) for found in elsewhere.objects if "namespace" in found["metadata"]
    }
    assert there == {(kind, "observability-logs") for kind in ("DaemonSet", "ConfigMap", "NetworkPolicy")}
    assert variables(workload(elsewhere, LOGS))["VICTORIALOGS"] == "http://observability-victorialogs.holdfast:9428"


def test_without_logs_nothing_reads_the_nodes():
    none = render(OBSERVABILITY, nested("logs.enabled", value=False), release=RELEASE)
    assert none.of_kind("DaemonSet") == []
    assert "hostPath" not in yaml.safe_dump(list(none.objects))


# --- traces ---


def test_errors_slow_traces_and_a_share_of_the_rest_are_kept(observability):
    sampling = configuration(observability, "collector")["processors"]["tail_sampling"]
    kept = {policy["type"]: policy[policy["type"]] for policy in sampling["policies"]}
    assert kept == {
        "status_code": {"status_codes": ["ERROR"]},
        "latency": {"threshold_ms": "${env:SLOW_MILLISECONDS}"},
        "probabilistic": {"sampling_percentage": "${env:SHARE_PERCENT}"},
    }
    given = variables(workload(observability, "collector"))
    assert (given["SLOW_MILLISECONDS"], given["SHARE_PERCENT"]) == ("5000", "25")


def test_every_variable_of_a_configuration_is_given(observability):
    for program in (*PROGRAMS, LOGS):
        found = workload(observability, program)
        (container,) = found.containers
        text = "".join(observability.get("ConfigMap", f"{RELEASE}-{program}")["data"].values()) if mounts(found) else ""
        used = set(re.findall(r"\$\{env:(\w+)\}", text))
        if program == "grafana":
            used = set(re.findall(r"url: \$(\w+)", text))
        given = {variable["name"] for variable in container.get("env", []) if not variable["name"].startswith("GF_")}
        assert used == given, program


def mounts(found: Workload) -> list[Json]:
    return [volume for volume in found.pod["volumes"] if volume["name"] == "config"]


# --- Alertmanager ---


@pytest.mark.skipif(not shutil.which("amtool"), reason="amtool is not here: `apt-get install prometheus-alertmanager`")
@pytest.mark.parametrize(
    "receiver", [{}, {"webhook_configs": [{"url_file": "/etc/observability-secret/url"}]}], ids=["nobody", "webhook"]
)
def test_alertmanager_accepts_its_configuration_with_any_receiver(receiver, tmp_path: Path):
    rendering = render(OBSERVABILITY, nested("alertmanager.receiver", value=receiver), release=RELEASE)
    text = rendering.get("ConfigMap", "observability-alertmanager")["data"]["alertmanager.yaml"]
    (tmp_path / "alertmanager.yaml").write_text(text)
    subprocess.run(["amtool", "check-config", tmp_path / "alertmanager.yaml"], check=True, capture_output=True)
    (people,) = yaml.safe_load(text)["receivers"]
    assert people == {"name": "people", **receiver}


@pytest.mark.skipif(not shutil.which("amtool"), reason="amtool is not here: `apt-get install prometheus-alertmanager`")
def test_every_alert_reaches_the_people():
    for severity in ("page", "ticket"):
        command = ["amtool", "config", "routes", "test", f"--config.file={FILES / 'alertmanager.yaml'}"]
        answer = subprocess.run([*command, f"severity={severity}"], check=True, capture_output=True, text=True)
        assert answer.stdout.strip() == "people"


def test_inhibitions_name_alerts_that_there_are():
    rules = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"] if "alert" in rule}
    for rule in yaml.safe_load((FILES / "alertmanager.yaml").read_text())["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, names = re.fullmatch(r'(\w+)!?=~?"(.*)"', matcher).groups()
            assert label != "alertname" or set(names.split("|")) <= alerts


def test_a_receivers_secrets_are_mounted_where_it_reads_them():
    assert "secret" not in {
        it["name"] for it in workload(render(OBSERVABILITY, release=RELEASE), "alertmanager").pod["volumes"]
    }
    given = render(OBSERVABILITY, nested("alertmanager.existingSecret", value="receiver"), release=RELEASE)
    (volume,) = [it for it in workload(given, "alertmanager").pod["volumes"] if it["name"] == "secret"]
    assert volume["secret"] == {"secretName": "receiver"}


# --- Grafana ---


def test_grafanas_password_is_made_once():
    first = render(OBSERVABILITY, release=RELEASE).get("Secret", "observability-grafana")
    assert len(base64.b64decode(first["data"]["admin-password"])) == 32
    again = render(OBSERVABILITY, release=RELEASE, revision=2, existing=[first])
    assert again.get("Secret", "observability-grafana")["data"] == first["data"]


def test_grafanas_password_may_be_somebody_elses():
    given = render(OBSERVABILITY, nested("grafana.existingSecret", value="ours"), release=RELEASE)
    assert given.of_kind("Secret") == []
    (volume,) = [it for it in workload(given, "grafana").pod["volumes"] if it["name"] == "secret"]
    assert volume["secret"] == {"secretName": "ours"}


def test_grafanas_data_sources_lead_to_the_services(observability):
    given = variables(workload(observability, "grafana"))
    sources = configuration(observability, "grafana", "datasources.yaml")["datasources"]
    assert {source["uid"] for source in sources} == {"prometheus", "jaeger", "victorialogs", "alertmanager"}
    for source in sources:
        name, port = re.fullmatch(r"http://([a-z-]+):(\d+)", given[source["url"].removeprefix("$")]).groups()
        assert int(port) in {each["port"] for each in observability.get("Service", name)["spec"]["ports"]}


def test_grafana_finds_what_it_is_provisioned_with(observability):
    found = workload(observability, "grafana")
    (config,) = mounts(found)
    paths = {f"/etc/observability/{item['path']}" for item in config["configMap"]["items"]}
    given = variables(found)
    assert given["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in paths
    assert {path.rpartition("/")[0] for path in paths if "provisioning" in path} == {
        f"{given['GF_PATHS_PROVISIONING']}/{kind}" for kind in ("datasources", "dashboards")
    }
    (provider,) = configuration(observability, "grafana", "dashboards.yaml")["providers"]
    dashboards = {path.name for path in (FILES / "dashboards").iterdir()}
    assert {f"{provider['options']['path']}/{name}" for name in dashboards} <= paths


def test_every_file_of_the_bundle_is_given_to_somebody(observability):
    given = {text for it in observability.of_kind("ConfigMap") for text in it["data"].values()}
    for path in FILES.rglob("*"):
        if path.is_file() and path.name not in {"programs.yaml", "alertmanager.yaml"} and path.parent.name != "chart":
            assert any(path.read_text().rstrip() == text.rstrip() for text in given), path.name


def test_images_are_pinned(observability):
    for found in observability.workloads:
        for container in found.containers:
            assert re.search(r":v?\d+\.\d+\.\d+$", container["image"]), container["image"]
    assert CHARTS / "observability" == OBSERVABILITY
