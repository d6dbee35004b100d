"""Each alert fires on what it is about, not before it has lasted, and stays silent otherwise: asked of promtool."""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_cases import CASES, Case, Series
from rules import RULES, alerts, needs_promtool

RUNBOOKS = "docs/runbooks"


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def unit_test(series: Series, *expected: dict[str, Any]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": list(expected),
    }


def expected(case: Case, *, at: int, fires: bool) -> dict[str, Any]:
    annotations = {"summary": case.summary, "runbook_url": f"{RUNBOOKS}/{case.alert}.md"}
    alert = {"exp_labels": case.labels, "exp_annotations": annotations}
    return {"alertname": case.alert, "eval_time": f"{at}m", "exp_alerts": [alert] if fires else []}


def named(case: Case) -> str:
    return f"{case.alert}-{case.labels.get('window', case.labels.get('group', ''))}".rstrip("-")


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_alert_fires_on_what_it_is_about_and_on_nothing_else(case: Case, tmp_path: Path) -> None:
    told = [expected(case, at=case.at, fires=True)]
    if case.quiet_until:
        told.insert(0, expected(case, at=case.quiet_until, fires=False))
    tests = [unit_test(case.bad, *told), unit_test(case.good, expected(case, at=case.at, fires=False))]
    path = tmp_path / "tests.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": f"{case.step}m", "tests": tests})
    )
    answer = promtool("test", "rules", path)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_has_a_case() -> None:
    """As many cases as rules of each name, and one that waits wherever a rule has `for`."""
    known = {(case.alert, case.labels["severity"], case.labels.get("window", "")) for case in CASES}
    assert known == {(r["alert"], r["labels"]["severity"], r["labels"].get("window", "")) for r in alerts()}
    waits = {case.alert for case in CASES if case.quiet_until}
    assert waits == {rule["alert"] for rule in alerts() if "for" in rule}


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    answer = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_an_alert_says_what_whom_and_where_to_read_on() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "runbook_url"}, rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}/{rule['alert']}.md"
    several = {name for name, count in Counter(rule["alert"] for rule in alerts()).items() if count > 1}
    assert several == {"OrdersAvailability", "OrdersLatency", "OrdersSettleTime"}
