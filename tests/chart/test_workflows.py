""".github/workflows: valid, pinned, without rights, and whatever a step names exists in this tree."""

import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import yaml
from rendering import CHARTS, HOLDFAST, KUBERNETES, Json, render, values_of

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
CI = ROOT / ".github/workflows/ci.yaml"
KIND = yaml.safe_load((ROOT / "infra/kind.yaml").read_text())
FOLDERS = ("charts/", "docs/", "infra/", "services/", "tests/")


def commands(job: str | None = None) -> str:
    """All shell commands of a job, or of all jobs."""
    jobs = yaml.safe_load(CI.read_text())["jobs"]
    steps = chain.from_iterable(found["steps"] for name, found in jobs.items() if job in {None, name})
    return "\n".join(step["run"] for step in steps if "run" in step)


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_are_what_github_accepts_and_every_job_ends(schema):
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", schema, *WORKFLOWS]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read_and_run_pinned_actions(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


def test_the_checks_run_with_the_oldest_and_the_newest_python_that_is_supported():
    oldest, newest = yaml.safe_load(CI.read_text())["jobs"]["check"]["strategy"]["matrix"]["python-version"]
    assert (ROOT / ".python-version").read_text().strip() == oldest
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert all(version in (ROOT / ".ci/run").read_text() for version in (oldest, newest))
    assert f"cp{newest.replace('.', '')}-" in (ROOT / "uv.lock").read_text()


def test_workflow_calls_targets_and_files_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    called = set(re.findall(r"\bmake ([a-z-]+)", commands()))
    assert {"lint", "test", "images"} <= called <= targets
    paths = [word for word in commands().split() if word.startswith(FOLDERS)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_cluster_is_of_a_version_that_the_chart_is_checked_for():
    (node,) = KIND["nodes"]
    version = re.fullmatch(r"kindest/node:v(\d+\.\d+)\.\d+@sha256:[0-9a-f]{64}", node["image"])[1]
    oldest, newest = (tuple(map(int, each.split("."))) for each in KUBERNETES)
    assert oldest <= tuple(map(int, version.split("."))) <= newest


def test_the_workflow_loads_images_into_the_cluster_that_it_made():
    assert f"kind load docker-image --name {KIND['name']}" in commands("chart")


def test_the_workflow_asks_services_that_are_there_and_counts_what_is_scraped():
    endpoint = re.search(r"--set config\.telemetry\.otlp_endpoint=(\S+)", commands("chart"))[1]
    platform = render(HOLDFAST, values_of(HOLDFAST, "values-dev.yaml"))
    observability = render(CHARTS / "observability", release="observability")
    services = {each["metadata"]["name"]: ports(each) for each in observability.of_kind("Service")}
    asked = re.findall(r"\$services/([a-z-]+):([a-z-]+)/proxy", commands("chart"))
    assert len(asked) == 2
    assert all(port in services[name] for name, port in asked)
    assert endpoint in {f"http://{name}:{port}" for name, found in services.items() for port in found.values()}

    pods = [*platform.workloads, *observability.workloads]
    scraped = [each for each in pods if each.annotations.get("prometheus.io/scrape") == "true"]
    # The one that reads logs lives in another namespace there, where Prometheus does not look.
    replicas = sum(each.object["spec"]["replicas"] for each in scraped if each.object["kind"] != "DaemonSet")
    assert re.findall(r'value\[1\] == "(\d+)"', commands("chart")) == [str(replicas)]
    assert {each.labels["app.kubernetes.io/part-of"] for each in pods} == {"holdfast", "observability"}


def ports(service: Json) -> dict[str, int]:
    return {each["name"]: each["port"] for each in service["spec"]["ports"]}
