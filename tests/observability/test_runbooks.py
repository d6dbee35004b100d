"""Each alert has a page of one shape, which names only what there is."""

import re

import pytest
from chassis.errors import ErrorCode
from dashboards import expressions
from metrics_page import all_metrics
from rules import ROOT, alerts
from runbooks import blocks, pages

PAGES = pages()
SEVERITIES: dict[str, set[str]] = {}
for _rule in alerts():
    SEVERITIES.setdefault(_rule["alert"], set()).add(_rule["labels"]["severity"])
PANELS = {place for place, _ in expressions()}
SUFFIXES = re.compile("_(total|bucket|count|sum)$")
OTHERS = ("histogram_quantile", "process_")
"""What PromQL itself and prometheus-client's own metrics have."""
METRICS = {name for metric in all_metrics() for name in (metric.name, metric.exposed)}
SOURCES = "".join(
    path.read_text("utf-8")
    for folder in ("services", "charts", "infra/local")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".sql", ".yaml"}
)


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert PAGES.keys() == SEVERITIES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_means_where_to_look_and_what_to_do(name: str) -> None:
    text = PAGES[name]
    assert text.startswith(f"# {name}\n**{', '.join(sorted(SEVERITIES[name]))}** · dashboard: ")
    assert re.findall("^## (.+)$", text, re.MULTILINE) == ["What it means", "Look", "Do"]
    assert list(blocks("promql", text)) != []
    assert len(text.splitlines()) < 50


@pytest.mark.parametrize("name", PAGES)
def test_a_page_leads_to_a_panel_that_there_is(name: str) -> None:
    panel = re.search(r"dashboard: (.+)$", PAGES[name], re.MULTILINE)
    assert panel
    assert panel[1] in PANELS


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_metrics_codes_events_and_settings_that_there_are(name: str) -> None:
    text = PAGES[name]
    for line in blocks("promql", text):
        without_labels = re.sub(r"\{.*?\}|by \(.*?\)", "", line)
        named = {it for it in re.findall("[a-z]+(?:_[a-z]+)+", without_labels) if not it.startswith(OTHERS)}
        assert {SUFFIXES.sub("", it) for it in named} <= {SUFFIXES.sub("", it) for it in METRICS}, line
    for quoted in re.findall(r"`([^`\n]+)`", re.sub("^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.fullmatch("[A-Z]+_[A-Z_]+", quoted):
            assert quoted in ErrorCode.__members__, quoted
        elif re.fullmatch("[a-z]+(_[a-z]+)+", quoted) and not quoted.startswith(("otelcol_", "pg_")):
            assert quoted in SOURCES, quoted
        elif setting := re.fullmatch(r"([a-z_]+)\.([a-z_]+)", quoted):
            assert f"{setting[1]}.{setting[2]}`" in (ROOT / "docs/reference/configuration.md").read_text() or (
                quoted in {"traces.sharePercent", "rate_limit.tiers", "webhooks.egress"}
            ), quoted


def test_the_pages_are_listed_nowhere_else_but_by_their_alerts() -> None:
    """The README of the folder stays true whatever alerts there are."""
    readme = (ROOT / "docs" / "runbooks" / "README.md").read_text("utf-8")
    assert not [name for name in PAGES if name in readme]
