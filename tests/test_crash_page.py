"""The crash points: each step of an order's life has some, the page tells of each, `make test-crash` dies at each."""

import json
import re
from pathlib import Path

import pytest
from broken_protections import PROTECTIONS
from crash_points import CALLING
from points import COMMAND_POINTS, MIGRATION_POINT, POINTS

ROOT = Path(__file__).parents[1]
NAMES = {point.name for point in POINTS} | {*COMMAND_POINTS, MIGRATION_POINT}

_NOT_OF_AN_ORDER = {"prune_idempotency_records"}
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|", re.MULTILINE)
_TEXT = (ROOT / "docs" / "reference" / "crash-points.md").read_text()
_PAGE = _ROW.findall(_TEXT)


def sources(pattern: str) -> str:
    """The text of all service modules of that name."""
    return "".join(path.read_text() for path in ROOT.glob(f"services/*/src/*/{pattern}"))


def test_the_page_tells_of_every_point_once_and_of_no_other():
    named = [name for name, _ in _PAGE]
    assert sorted(named) == sorted(NAMES)


def test_every_row_of_the_protocol_has_a_point():
    protocol = (ROOT / "docs" / "reference" / "protocol.md").read_text()
    steps = protocol.partition("## Steps")[2].partition("## Answer classes")[0]
    rows = re.findall(r"^\| (\d+b?) \|", steps, re.MULTILINE)
    told = {row for _, rows in _PAGE for row in rows.strip().split(", ")}
    assert len(rows) == 18
    assert told - {"–"} == set(rows)


def test_every_job_has_its_points():
    jobs = set(re.findall(r'\(JobPayload,[^)]*job="(\w+)"', sources("messages.py")))
    assert len(jobs) == 9
    for job in jobs:
        assert {f"{job} claimed", f"{job} uncommitted", f"{job} committed"} <= NAMES
    assert {f"{job} under way" for job in CALLING} == {name for name in NAMES if name.endswith(" under way")}


@pytest.mark.parametrize("event", [path.stem for path in (ROOT / "contracts" / "events").glob("*.json")])
def test_every_event_has_its_points(event):
    assert {f"{event} uncommitted", f"{event} committed"} <= NAMES


def test_every_schedule_has_its_points():
    found = re.findall(r'Schedule\(\s*name="(\w+)"', sources("worker.py"))
    assert found
    for schedule in set(found) - _NOT_OF_AN_ORDER:
        assert [name for name in NAMES if name.endswith(f"{schedule} committed")], schedule


@pytest.mark.parametrize("service", ["orders", "payments", "notifications", "webhook-ingest"])
def test_every_route_that_writes_has_its_points(service):
    document = json.loads((ROOT / "contracts" / "openapi" / f"{service}.json").read_text())
    operations = [operation for path in document["paths"].values() for operation in path.items()]
    writing = [described["operationId"] for method, described in operations if method not in {"get", "head"}]
    assert writing
    for name in writing:
        step = f"{service}-api {name}"
        assert {f"{step} uncommitted", f"{step} committed", f"{step} answered"} <= NAMES


def test_the_page_tells_of_every_protection_that_can_be_taken_away_and_each_still_can():
    table = _TEXT.partition("## One protection at a time")[2].partition("\n## ")[0]
    told = re.findall(r"^\| (\w[^|]+) \|", table, re.MULTILINE)[1:]
    assert told == [protection.name for protection in PROTECTIONS]
    points = {str(point) for point in POINTS}
    for protection in PROTECTIONS:
        assert (ROOT / protection.file).read_text().count(protection.code) == 1, protection.name
        assert {point.rstrip("0") for point in (*protection.first, *protection.points)} <= points
