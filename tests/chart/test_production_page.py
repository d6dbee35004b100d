"""docs/tutorial/production.md and backup.md name Secrets, classes, values and numbers that there are."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import HelmRenderError
from pod_files import decoded
from rendering import HOLDFAST, Rendering, leaves, nested, render, schema_problems, values_of

PAGES = Path(__file__).parents[2] / "docs" / "tutorial"
PRODUCTION = (PAGES / "production.md").read_text()
PROD = values_of(HOLDFAST, "values-prod.yaml")


def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```$", PRODUCTION, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load("\n".join(line[len(indent) :] for line in block.splitlines())) for indent, block in blocks]


def test_the_secrets_from_a_vault_have_the_keys_that_the_chart_would_make(platform: Rendering) -> None:
    found = [it for it in manifests() if it["kind"] == "ExternalSecret"]
    assert len(found) == 2
    for external in found:
        name = external["metadata"]["name"]
        keys = {it["secretKey"] for it in external["spec"]["data"]}
        assert keys == set(decoded(platform.get("Secret", name)))
        assert external["spec"]["target"]["name"] == name
    orders = PROD["services"]["orders"]
    named = {orders["existingSecret"], orders["existingMigrationSecret"]}
    assert {it["metadata"]["name"] for it in found} == named


def test_the_policy_for_keda_is_one_and_lets_it_ask_the_prometheus_of_the_values() -> None:
    (policy,) = (it for it in manifests() if it["kind"] == "NetworkPolicy")
    assert schema_problems(policy) == []
    selector = policy["spec"]["podSelector"]["matchLabels"]
    (peer,) = values_of(HOLDFAST)["networkPolicies"]["peers"]["prometheus"]
    assert peer == {"podSelector": {"matchLabels": selector}}
    (port,) = policy["spec"]["ingress"][0]["ports"]
    assert values_of(HOLDFAST)["autoscaling"]["workers"]["prometheus"].endswith(f":{port['port']}")


def test_the_priority_classes_that_it_makes_are_those_of_production() -> None:
    made = set(re.findall(r"create priorityclass (\S+)", PRODUCTION))
    assert made == set(PROD["priorityClassNames"].values())


def test_the_connections_that_production_may_open_are_the_number_beside_its_limit() -> None:
    text = (HOLDFAST / "values-prod.yaml").read_text()
    (number,) = re.findall(r"maxConnections: \d+  # what your server allows: (\d+) may be open", text)
    render(HOLDFAST, PROD, nested("postgres.maxConnections", value=int(number)))
    with pytest.raises(HelmRenderError, match=f" {number} connections may be open"):
        render(HOLDFAST, PROD, nested("postgres.maxConnections", value=int(number) - 1))


def test_an_api_has_the_seconds_that_the_page_says() -> None:
    (seconds,) = re.findall(r"less than the (\d+) s of an API", PRODUCTION)
    pod = render(HOLDFAST, PROD).workload("Deployment/holdfast-orders").pod
    assert pod["terminationGracePeriodSeconds"] == int(seconds)


def test_every_value_that_a_page_names_exists() -> None:
    known = {path for path, _ in leaves(values_of(HOLDFAST))}
    known |= {path.rpartition(".")[0] for path in known}
    for page in ("production.md", "kubernetes.md"):
        named = re.findall(r"`((?:networkPolicies|autoscaling|ingress|podMonitor|postgres|image|helmTest)\.[\w.]+)`",
                           (PAGES / page).read_text())  # fmt: skip
        assert named
        assert [name for name in named if name not in known] == [], page


def test_old_configmaps_are_told_from_current_ones_by_what_the_manifest_has(platform: Rendering) -> None:
    (expression,) = re.findall(r"sed -n '(s/.*?/p)'", (PAGES / "kubernetes.md").read_text())
    pattern = re.fullmatch(r"s/(.*)\$/configmap.*", expression)[1].replace("\\(", "(").replace("\\)", ")")
    pattern = pattern.replace("\\{", "{").replace("\\}", "}")
    manifest = "".join(yaml.safe_dump(found) + "---\n" for found in platform.objects)
    found = re.findall(f"{pattern}$", manifest, re.MULTILINE)
    expected = [it["metadata"]["name"] for it in platform.of_kind("ConfigMap") if "config.yaml" in it["data"]]
    assert sorted(found) == sorted(expected)
