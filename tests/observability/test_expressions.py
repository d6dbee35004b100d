"""Every expression of every panel and rule, asked of a real Prometheus that watched the demo's story."""

from pathlib import Path

import pytest
import told
import yaml
from dashboards import expressions
from prometheus import without_comparisons
from rules import all_rules
from story import Seen

EMPTY = yaml.safe_load(Path(__file__).with_name("empty_in_a_healthy_run.yaml").read_text(encoding="utf-8"))

ALL = {
    **{f"{place} #{number}": expression for number, (place, expression) in enumerate(expressions())},
    **{
        f"rule / {rule.get('record') or rule['alert']} #{number}": without_comparisons(rule["expr"])
        for number, rule in enumerate(all_rules())
    },
}


@pytest.mark.timeout(900)  # the first one waits for the story
@pytest.mark.parametrize("place", ALL)
async def test_an_expression_has_results_or_is_listed_with_the_reason_why_not(seen: Seen, place: str) -> None:
    expression = ALL[place]
    has_results = bool(await seen.series(expression))
    (told.with_results if has_results else told.without).append(place)
    if not has_results:
        assert any(part in expression for part in EMPTY), f"{place}: nothing for {expression}"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rule", [rule for rule in all_rules() if "alert" in rule], ids=lambda rule: rule["alert"])
async def test_an_alert_is_understood_as_it_is_written(seen: Seen, rule: dict[str, str]) -> None:
    await seen.series(rule["expr"])


def test_every_listed_reason_is_of_an_expression() -> None:
    assert [part for part in EMPTY if not any(part in expression for expression in ALL.values())] == []
