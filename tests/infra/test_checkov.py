"""What `make check-chart` makes of checkov's findings. Checkov itself has an environment of its own."""

import importlib.util
from types import ModuleType

import pytest
import yaml
from holdfast_local.settings import PROJECT

CHART = PROJECT / "charts" / "holdfast"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", PROJECT / "infra/checkov/check.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_finding_without_a_reason_and_a_reason_without_a_finding_are_named(check: ModuleType) -> None:
    digest = check.Finding("CKV_K8S_43", "values.yaml", "Deployment.holdfast-orders", "Image should use digest")
    reason = check.Reason("CKV_K8S_43", r"Deployment\..*", ["values.yaml"], "because")
    assert list(check.judge([digest], [reason])) == []
    assert list(check.judge([digest], [])) == [
        "values.yaml: CKV_K8S_43 Deployment.holdfast-orders: Image should use digest"
    ]
    assert list(check.judge([], [reason])) == [r"checkov.yaml: CKV_K8S_43 Deployment\..* is not found with values.yaml"]


@pytest.mark.parametrize(
    ("field", "value"), [("check", "CKV_K8S_8"), ("objects", "Job.*"), ("values", ["values-prod.yaml"])]
)
def test_a_reason_covers_its_own_check_objects_and_values_alone(check: ModuleType, field: str, value: object) -> None:
    digest = check.Finding("CKV_K8S_43", "values.yaml", "Deployment.holdfast-orders", "Image should use digest")
    reason = check.Reason("CKV_K8S_43", ".*", ["values.yaml"], "because")
    assert reason.covers(digest)
    assert not reason._replace(**{field: value}).covers(digest)


def test_a_report_is_read_as_checkov_writes_it(check: ModuleType) -> None:
    failed = {"check_id": "CKV_K8S_8", "check_name": "Liveness", "resource": "Pod.holdfast.holdfast-a.b"}
    (finding,) = check.findings({"results": {"failed_checks": [failed]}}, "values.yaml")
    assert finding == check.Finding("CKV_K8S_8", "values.yaml", "Pod.holdfast-a.b", "Liveness")


def test_what_it_is_given_are_the_objects_of_each_values_file(check: ModuleType) -> None:
    kinds = [found["kind"] for found in yaml.safe_load_all(check.rendered("values-prod.yaml")) if found]
    assert {"Deployment", "NetworkPolicy", "Ingress", "HorizontalPodAutoscaler"} <= set(kinds)


def test_a_values_file_that_passes_less_than_98_percent_is_a_problem(check: ModuleType) -> None:
    assert list(check.too_few("values.yaml", passed=98, failed=2)) == []
    assert list(check.too_few("values.yaml", passed=979, failed=21)) == ["values.yaml passes 97.9%, less than 98%"]


def test_every_reason_is_given_and_names_files_that_exist(check: ModuleType) -> None:
    reasons = [check.Reason(**entry) for entry in yaml.safe_load(check.REASONS.read_text())]
    assert all(len(reason.reason) > 10 for reason in reasons)
    assert {file for reason in reasons for file in reason.values} <= {path.name for path in CHART.glob("values*.yaml")}
