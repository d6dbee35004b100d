"""The dashboards are what their code says, fit Grafana's own model, and have a row per pattern."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import FOLDER
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from rules import FILES, ROOT
from test_rule_of_ten import PATTERNS

FILES_OF_DASHBOARDS = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_the_files_are_what_the_code_says() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "infra" / "dashboards" / "dashboards.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (check.returncode, check.stderr) == (0, "")


def test_each_pattern_has_a_row_in_the_order_of_the_readme() -> None:
    rows = [panel["title"] for panel in read(FOLDER / "patterns.json")["panels"] if panel["type"] == "row"]
    assert rows == list(PATTERNS)


@pytest.mark.parametrize("path", FILES_OF_DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_model_reads_what_it_wrote(path: Path) -> None:
    register_default_plugins()
    model = Dashboard.from_json(read(path))
    assert model.uid == f"holdfast-{path.stem}"
    assert model.panels
    assert len(model.panels) == len(read(path)["panels"])


@pytest.mark.parametrize("path", FILES_OF_DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_ids_of_their_own_and_lie_beside_each_other(path: Path) -> None:
    panels = read(path)["panels"]
    places = sorted((it["gridPos"]["y"], it["gridPos"]["x"], it["gridPos"]["w"], it["gridPos"]["h"]) for it in panels)
    assert all(x + w <= 24 for _, x, w, _ in places)
    for (y, x, w, _), (next_y, next_x, _, _) in pairwise(places):
        assert next_y > y or next_x >= x + w
    ids = [it["id"] for it in panels if "id" in it]
    assert len(ids) == len(set(ids))


def test_panels_ask_data_sources_that_are_provisioned() -> None:
    provisioned = {
        (source["uid"], source["type"])
        for source in yaml.safe_load((FILES / "grafana-datasources.yaml").read_text("utf-8"))["datasources"]
    }
    asked = set()
    for path in FILES_OF_DASHBOARDS:
        dashboard = read(path)
        for it in (*dashboard["panels"], *dashboard["templating"]["list"]):
            if it["type"] != "row":
                asked.add((it["datasource"]["uid"], it["datasource"]["type"]))
            asked |= {(t["datasource"]["uid"], t["datasource"]["type"]) for t in it.get("targets", [])}
    assert {uid for uid, _ in asked} == {"prometheus", "victorialogs"}
    assert asked <= provisioned


def test_no_panel_has_more_queries_than_letters_and_each_has_a_title() -> None:
    for path in FILES_OF_DASHBOARDS:
        for panel in read(path)["panels"]:
            assert panel["title"]
            letters = [target["refId"] for target in panel.get("targets", [])]
            assert len(letters) == len(set(letters))
