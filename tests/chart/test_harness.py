"""The harness itself: it merges as Helm does, sees what a cluster has, and does not overlook what is wrong."""

from pathlib import Path

import helm_python
import pytest
from rendering import (
    HOLDFAST,
    Json,
    changed,
    copy_of,
    leaves,
    lint,
    merge,
    nested,
    render,
    schema_problems,
    values_of,
    without,
)

SECRET: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kept"}, "data": {"key": "a2V5"}}
TEMPLATE = """
kind: ConfigMap
apiVersion: v1
metadata: {name: found}
data:
  key: {{ ((lookup "v1" "Secret" .Release.Namespace "kept").data).key | default "none" }}
  other: {{ (lookup "v1" "Secret" "elsewhere" "kept").data | toJson | quote }}
  moment: {{ .Release.Revision }} {{ .Release.IsInstall }} {{ .Release.IsUpgrade }}
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A chart of one template that tells what it sees."""
    folder = tmp_path / "seeing"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: seeing\nversion: 0.1.0\n")
    (folder / "values.yaml").write_text("kept: {a: 1, b: [1, 2]}\n")
    (folder / "templates" / "found.yaml").write_text(TEMPLATE)
    return folder


def test_values_are_merged_as_helm_merges_them(chart: Path) -> None:
    more = {"kept": {"b": [3], "c": {"d": None}}, "new": 1}
    with helm_python.Chart.load(chart) as loaded:
        assert merge(values_of(chart), more, {"kept": {"c": {"d": 2}}}) == loaded.merge_values(
            dict(merge(more, {"kept": {"c": {"d": 2}}}))
        )
    assert dict(leaves({"a": {"b": 1, "c": []}, "d": {}})) == {"a.b": 1, "a.c": [], "d": {}}


def test_lookup_finds_what_the_cluster_has_in_this_namespace_alone(chart: Path) -> None:
    found = render(chart, existing=[SECRET], revision=3).get("ConfigMap", "found")["data"]
    assert found == {"key": "a2V5", "other": "null", "moment": "3 false true"}


def test_without_a_cluster_lookup_finds_nothing(chart: Path) -> None:
    found = render(chart).get("ConfigMap", "found")["data"]
    assert found == {"key": "none", "other": "null", "moment": "1 true false"}


def test_an_unknown_field_and_a_wrong_type_are_problems_on_both_versions_of_kubernetes() -> None:
    assert schema_problems(SECRET) == []
    for wrong in (
        changed(SECRET, "dat", {}),
        changed(SECRET, "data.key", 1),
        without(SECRET, "kind") | {"kind": "Secrt"},
    ):
        assert len(schema_problems(wrong)) == 2, wrong


def test_a_chart_that_helm_would_not_package_is_not_lint_clean(chart: Path) -> None:
    assert lint(chart) == []
    assert lint(copy_of(chart, chart.parent / "broken", {"Chart.yaml": ("version: 0.1.0", "version: one")})) != []


def test_an_edit_of_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not contain 'lost'"):
        copy_of(HOLDFAST, tmp_path, {"Chart.yaml": ("lost", "found")})


def test_a_path_is_what_set_means_by_it() -> None:
    assert nested("a.b.c", value=[1]) == {"a": {"b": {"c": [1]}}}
