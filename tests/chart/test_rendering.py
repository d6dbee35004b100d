"""The platform's chart renders for every environment and switch, and Kubernetes would take every object of it."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from api_server import refusals
from helm_python import HelmRenderError
from rendering import (
    HOLDFAST,
    KUBERNETES,
    Json,
    Rendering,
    copy_of,
    identity,
    lint,
    nested,
    render,
    schema_problems,
    values_files,
    values_of,
)
from wiring import selected

LABELS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}
CONTROLLERS = ("Deployment", "StatefulSet")


def names(rendering: Rendering) -> set[str]:
    return {identity(found) for found in rendering.objects}


def controllers(rendering: Rendering) -> dict[str, Json]:
    return {identity(found): found for found in rendering.of_kind(*CONTROLLERS)}


def jobs(rendering: Rendering) -> dict[str, Json]:
    return {found["metadata"]["name"]: found for found in rendering.of_kind("Job")}


def test_every_object_is_valid_on_the_oldest_and_the_newest_kubernetes(rendering: Rendering) -> None:
    assert len(rendering.objects) >= 30
    assert [problem for found in rendering.objects for problem in schema_problems(found)] == []


def test_the_api_server_would_refuse_none_of_it(rendering: Rendering) -> None:
    assert refusals(rendering) == []


def test_every_object_and_every_pod_says_what_it_belongs_to(rendering: Rendering) -> None:
    labels = {identity(found): found["metadata"].get("labels", {}) for found in rendering.objects}
    labels |= {f"pods of {workload.name}": workload.labels for workload in rendering.workloads}
    assert {name: LABELS - given.keys() for name, given in labels.items() if LABELS - given.keys()} == {}
    assert {given["app.kubernetes.io/instance"] for given in labels.values()} == {"holdfast"}


@pytest.mark.parametrize("file", ["values.yaml", *values_files(HOLDFAST)])
def test_the_chart_is_lint_clean(file: str) -> None:
    assert lint(HOLDFAST, values_of(HOLDFAST, file)) == []


def test_the_chart_says_the_oldest_kubernetes_that_it_was_checked_with() -> None:
    chart = yaml.safe_load((HOLDFAST / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={KUBERNETES[0]}.0-0"


def test_the_helm_that_is_asked_for_knows_that_kubernetes() -> None:
    page = (HOLDFAST.parents[1] / "docs" / "tutorial" / "kubernetes.md").read_text()
    (minor,) = re.findall(r"Helm 3\.(\d+) or newer", page)
    # Helm 3.N is built for Kubernetes 1.(N + 15), and `helm template` refuses a chart that asks for a newer one.
    assert int(minor) + 15 >= int(KUBERNETES[0].removeprefix("1."))


def test_a_field_that_kubernetes_does_not_know_is_found(tmp_path: Path) -> None:
    chart = copy_of(HOLDFAST, tmp_path, {"templates/deployment.yaml": ("readinessProbe:", "readynessProbe:")})
    problems = [problem for found in render(chart).objects for problem in schema_problems(found)]
    assert "'readynessProbe' was unexpected" in problems[0]


def test_a_key_that_is_given_twice_is_found(tmp_path: Path) -> None:
    chart = copy_of(
        HOLDFAST, tmp_path, {"templates/job.yaml": ("backoffLimit: 8", "backoffLimit: 8\n  backoffLimit: 9")}
    )
    with pytest.raises(ValueError, match="backoffLimit is given twice"):
        render(chart)


def test_two_releases_in_one_namespace_share_nothing() -> None:
    one, other = render(HOLDFAST, release="one"), render(HOLDFAST, release="other")
    assert names(one) & names(other) == set()
    both = Rendering(objects=one.objects + other.objects)
    selectors = [found["spec"]["selector"]["matchLabels"] for found in one.of_kind(*CONTROLLERS)]
    selectors += [found["spec"]["selector"] for found in one.of_kind("Service")]
    assert all(found.object in one.objects for selector in selectors for found in selected(both, selector))


def test_an_upgrade_changes_no_field_that_cannot_change(tmp_path: Path) -> None:
    new = copy_of(HOLDFAST, tmp_path, {"Chart.yaml": ("version: 0.1.0", "version: 9.9.9")})
    now = controllers(render(HOLDFAST))
    later = controllers(render(new, values_of(new, "values-dev.yaml"), revision=2))
    assert now.keys() == later.keys()
    for name, found in now.items():
        upgraded = later[name]
        assert found["metadata"]["labels"] != upgraded["metadata"]["labels"]
        assert found["spec"]["selector"] == upgraded["spec"]["selector"]
        for field in ("serviceName", "volumeClaimTemplates"):
            assert found["spec"].get(field) == upgraded["spec"].get(field)


def test_each_revision_migrates_in_a_job_of_its_own_that_does_the_same() -> None:
    first, second = jobs(render(HOLDFAST)), jobs(render(HOLDFAST, revision=2))
    assert len(first) == len(second) == 4
    assert first.keys() & second.keys() == set()
    assert [job["spec"] for job in first.values()] == [job["spec"] for job in second.values()]


@pytest.mark.parametrize(
    "change",
    [
        ("image.tag", "0.2.0"),
        ("config.database.host", "db"),
        ("image.pullPolicy", "Always"),
        ("priorityClassNames.migration", "last"),
        ("resources.migration.limits.memory", "1Gi"),
        ("services.orders.config.pending_limit", 60),
        ("services.orders.env", {"HOLDFAST_LOG__LEVEL": "DEBUG"}),
        ("services.orders.existingSecret", "ours"),
        ("services.orders.existingMigrationSecret", "ours-migrate"),
    ],
)
def test_a_job_that_would_run_something_else_has_another_name_even_in_the_same_revision(
    change: tuple[str, object],
) -> None:
    path, value = change
    before, after = jobs(render(HOLDFAST)), jobs(render(HOLDFAST, nested(path, value=value)))
    assert {name for name in before.keys() ^ after.keys() if "-orders-migrate-" in name}
    shared = before.keys() & after.keys()
    assert [before[name] for name in shared] == [after[name] for name in shared]


@pytest.mark.parametrize("version", ["version: 0.1.0", "appVersion: 0.1.0"])
def test_a_job_of_another_version_of_the_chart_has_another_name_although_its_image_stays(
    tmp_path: Path, version: str
) -> None:
    image = nested("image.tag", value="0.1.0")
    new = copy_of(HOLDFAST, tmp_path, {"Chart.yaml": (f"\n{version}", f"\n{version.removesuffix('0')}1")})
    assert jobs(render(HOLDFAST, image)).keys() & jobs(render(new, image)).keys() == set()


def test_an_upgrade_that_changes_nothing_restarts_nothing() -> None:
    first = render(HOLDFAST)
    second = render(HOLDFAST, revision=2, existing=first.objects)
    stable = [found for found in first.objects if found["kind"] != "Job"]
    assert stable == [found for found in second.objects if found["kind"] != "Job"]


@cache
def longest_release() -> str:
    """The longest name of a release that the chart takes."""
    for length in range(53, 0, -1):
        try:
            render(HOLDFAST, release="r" * length)
        except HelmRenderError:
            continue
        return "r" * length
    raise AssertionError("the chart takes no release at all")


def test_a_release_with_a_long_name_has_names_that_kubernetes_takes_and_keeps_them() -> None:
    release = longest_release()
    assert len(release) > 20
    assert refusals(render(HOLDFAST, release=release)) == []
    assert refusals(render(HOLDFAST, release=release, revision=9999)) == []


def test_a_release_whose_name_is_too_long_is_refused_with_the_reason() -> None:
    with pytest.raises(HelmRenderError, match="shorter name for the release"):
        render(HOLDFAST, release=longest_release() + "r")


def test_the_notes_say_how_to_go_on(rendering: Rendering) -> None:
    assert "holdfast" in rendering.notes
    assert "<no value>" not in rendering.notes


def test_nothing_was_left_out_of_a_template(rendering: Rendering) -> None:
    text = json.dumps(rendering.objects)
    assert "<no value>" not in text
    assert "{{" not in text
    assert "%!" not in text  # what Go's printf writes for a wrong argument


def test_a_service_with_several_pods_keeps_one_while_nodes_are_emptied(rendering: Rendering) -> None:
    at_least = {it["spec"]["scaleTargetRef"]["name"]: it["spec"] for it in rendering.of_kind("HorizontalPodAutoscaler")}
    at_least |= {it["spec"]["scaleTargetRef"]["name"]: it["spec"] for it in rendering.of_kind("ScaledObject")}
    several = set()
    for name, found in controllers(rendering).items():
        scaled = at_least.get(found["metadata"]["name"], {})
        least = found["spec"].get("replicas") or scaled.get("minReplicas") or scaled["minReplicaCount"]
        several |= {name} if least > 1 else set()
    budgets = {f"Deployment/{name}" for name in rendering.names("PodDisruptionBudget")}
    assert budgets == several
    for found in rendering.of_kind("PodDisruptionBudget"):
        assert found["spec"]["maxUnavailable"] == 1
        assert found["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"  # or a sick pod holds its node for ever


def test_an_upgrade_takes_no_pod_away_before_its_successor_is_ready(rendering: Rendering) -> None:
    """Kubernetes' own default takes a quarter of them away first."""
    strategies = [
        found["spec"]["strategy"]
        for found in controllers(rendering).values()
        if found["metadata"]["labels"]["app.kubernetes.io/component"] in {"api", "worker"}
    ]
    assert strategies == 8 * [{"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}]


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "holdfast/orders:0.1.0"),
        (nested("image.tag", value="1.2.3"), "holdfast/orders:1.2.3"),
        (nested("image.registry", value="localhost:5000/team"), "localhost:5000/team/holdfast/orders:0.1.0"),
        (nested("services.orders.image", value="ghcr.io/x/orders:dev"), "ghcr.io/x/orders:dev"),
        (nested("services.orders.image", value="orders@sha256:0123"), "orders@sha256:0123"),
    ],
)
def test_an_image_is_where_the_values_say_in_every_container(values: Json, image: str) -> None:
    rendering = render(HOLDFAST, values)
    pods = [workload for workload in rendering.workloads if workload.labels["app.kubernetes.io/name"] == "orders"]
    assert len(pods) == 3
    assert {container["image"] for workload in pods for container in workload.containers} == {image}


def test_every_pod_can_pull_from_a_registry_that_wants_a_password() -> None:
    rendering = render(HOLDFAST, nested("image.pullSecrets", value=["registry"]))
    accounts = {
        found["metadata"]["name"]: found.get("imagePullSecrets", []) for found in rendering.of_kind("ServiceAccount")
    }
    used = {workload.pod["serviceAccountName"] for workload in rendering.workloads}
    assert {name: accounts[name] for name in used} == {"holdfast": [{"name": "registry"}]}
