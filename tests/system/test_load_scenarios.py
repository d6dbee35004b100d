"""Load, the pure part: who comes when, and what a run is judged by."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from holdfast_local.load import add_verdict, scenario_names
from load_modules import MODULES

scenario = MODULES["scenario"]
judging = MODULES["judging"]
report = MODULES["report"]
loopback = MODULES["loopback"]
SCENARIOS: dict[str, Any] = dict(MODULES["scenarios"].SCENARIOS)

LIMITS = scenario.Limits(rate_limited=(0.05, 0.2), overloaded=0.01, answer_seconds=1, settled_seconds=5)


def stage(seconds: float, **arrivals: float) -> Any:
    return scenario.Stage(seconds=seconds, arrivals=arrivals)


def of(*stages: Any) -> Any:
    return scenario.Scenario(stages=stages, limits=LIMITS)


def test_the_runner_knows_every_scenario():
    assert scenario_names() == sorted(SCENARIOS)
    assert len(SCENARIOS) == 8


def test_users_come_as_often_as_their_stage_says():
    arrivals = of(stage(100, Buyer=2.0), stage(100, Buyer=10.0, Browser=5.0)).arrivals(seed=1, within=200)
    counts = Counter((arrival.user, arrival.at >= 100) for arrival in arrivals)
    assert counts["Browser", False] == 0
    for wanted, key in ((200, ("Buyer", False)), (1000, ("Buyer", True)), (500, ("Browser", True))):
        assert abs(counts[key] - wanted) < 4 * wanted**0.5, key  # four standard deviations of a Poisson process
    assert [arrival.number for arrival in arrivals] == list(range(len(arrivals)))
    assert [arrival.at for arrival in arrivals] == sorted(arrival.at for arrival in arrivals)


def test_they_come_at_random_not_in_step():
    """Of a Poisson process, the gaps vary as much as they are long."""
    moments = [arrival.at for arrival in of(stage(200, Buyer=5.0)).arrivals(seed=3, within=200)]
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.2)


def test_the_seed_decides_when_they_come():
    busy = of(stage(30, Buyer=2.0, Browser=1.0))
    assert busy.arrivals(seed=1, within=30) == busy.arrivals(seed=1, within=30)
    assert busy.arrivals(seed=1, within=30) != busy.arrivals(seed=2, within=30)


def test_a_shorter_run_has_the_same_stages_and_rates_and_a_rate_multiplies_all():
    burst = of(stage(10, Buyer=1.0), stage(20, Buyer=10.0), stage(10, Buyer=1.0))
    assert [
        burst.stage_at(at, within=4) and burst.stage_at(at, within=4).arrivals["Buyer"] for at in (0.9, 1.1, 3.1)
    ] == [
        1.0,
        10.0,
        1.0,
    ]
    assert burst.stage_at(4, within=4) is None
    assert max(arrival.at for arrival in burst.arrivals(seed=1, within=4)) < 4
    assert len(burst.arrivals(seed=1, within=40, rate=3)) == pytest.approx(660, rel=0.2)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenarios_users_are_classes_and_somebody_buys_in_each(name):
    users = {"Abuser", "Browser", "BulkBuyer", "Buyer", "HastyBuyer", "WebhookSender"}
    assert SCENARIOS[name].users <= users
    assert "Buyer" in SCENARIOS[name].users
    assert {user for found in SCENARIOS.values() for user in found.users} == users


def test_goodput_is_what_was_settled_a_second_in_each_stage_of_hasty_buyers():
    busy = of(stage(10, Buyer=1.0), stage(10, HastyBuyer=9.0), stage(10, HastyBuyer=9.0), stage(10, Buyer=1.0))
    overloads = busy.overloads(within=20)
    assert overloads == [(5.0, 10.0), (10.0, 15.0)]
    assert judging.goodput([4.9, 5.0, 9.9, 10.0, 15.0], overloads) == [0.4, 0.2]


SOUND = {
    "answers": 1000,
    "failed": 0,
    "given_up": 0,
    "exceptions": 0,
    "rate_limited": 100,
    "overloaded": 10,
    "slowest": ("GET /v1/orders", 0.5),
    "placed": 100,
    "unsettled": 0,
    "settled": 2.0,
    "abuse": (100, 80),
    "webhooks": (100, 0.2),
    "goodput": (2.0, 1.9),
    "recovered": 3.0,
    "first_requests": [(float(at), 0.1) for at in range(30)],
}
ALL = {
    "abusers_refused": 0.7,
    "acknowledged_seconds": 0.5,
    "goodput": 0.9,
    "recovered_seconds": 5.0,
    "drift": 2.0,
}
DRIFTING = [(float(at), 0.1 if at < 10 else 0.201) for at in range(30)]


def verdict(limits: Any, **changed: Any) -> list[str]:
    """What is violated."""
    return [str(line) for line in judging.judge(judging.Tally(**SOUND | changed), limits) if not line.holds]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"failed": 1}, "1 of 1,200 requests failed"),
        ({"given_up": 3}, "3 were given up after refusals only"),
        ({"rate_limited": 49}, "49 were over a client's limit"),
        ({"rate_limited": 201}, "201 were over a client's limit"),
        ({"overloaded": 11}, "11 found the service overloaded"),
        ({"exceptions": 2}, "2 errands ended with an exception"),
        ({"slowest": ("GET /v1/orders", 1.1)}, "GET /v1/orders came within 1.10 s"),
        ({"unsettled": 1}, "1 of 100 orders did not end"),
        ({"settled": 5.1}, "settled within 5.1 s"),
        ({"abuse": (100, 69)}, "69 of 100 answers to abusers were 429, 69.0%; expected 70% or more"),
        ({"webhooks": (100, 0.6)}, "99 % of 100 webhooks were answered within 0.60 s; allowed 0.5 s"),
        ({"goodput": (2.0, 1.7)}, "beyond capacity 2.00, 1.70 orders were settled a second; expected 90% of the first"),
        ({"recovered": 5.5}, "the last 503 came 5.5 s after the load; allowed 5 s"),
        ({"first_requests": DRIFTING}, "came within 0.201 s, of the first third's within 0.100 s; allowed 0.200 s"),
        ({"trouble": "the provider does not take its faults"}, "the provider does not take its faults"),
    ],
)
def test_each_limit_that_is_not_kept_is_named(changed, said):
    limits = scenario.Limits(rate_limited=(0.05, 0.2), overloaded=0.01, answer_seconds=1, settled_seconds=5, **ALL)
    assert verdict(limits) == []
    [violated] = verdict(limits, **changed)
    assert said in violated


def test_a_limit_that_a_scenario_does_not_have_is_not_judged():
    assert verdict(LIMITS, abuse=(0, 0), webhooks=(0, 9.0), first_requests=DRIFTING) == []


def test_a_run_without_an_answer_or_an_order_holds_nothing():
    limits = scenario.Limits(rate_limited=(0.0, 1.0), overloaded=1.0, answer_seconds=1, settled_seconds=5, **ALL)
    nothing = {name: type(value)() if not isinstance(value, tuple) else (0, 0.0) for name, value in SOUND.items()}
    assert len(verdict(limits, **nothing | {"slowest": ("no route", 0.0)})) == 9


def test_a_busy_moment_of_the_machine_is_no_drift():
    limits = scenario.Limits(rate_limited=(0.0, 1.0), overloaded=1.0, answer_seconds=1, settled_seconds=5, drift=2.0)
    busy_in_the_end = [(float(at), 0.1 if at < 26 else 0.9) for at in range(30)]
    assert verdict(limits, first_requests=busy_in_the_end) == []


def test_answers_that_grow_but_stay_fast_are_no_drift():
    limits = scenario.Limits(rate_limited=(0.0, 1.0), overloaded=1.0, answer_seconds=1, settled_seconds=5, drift=2.0)
    fast = [(float(at), 0.001 if at < 10 else 0.04) for at in range(30)]
    assert verdict(limits, first_requests=fast) == []


def test_both_verdicts_stand_in_one_section_at_the_top_of_locusts_page(tmp_path):
    page = tmp_path / "load.html"
    page.write_text("<html><body><div id='root'></div></body></html>")
    report.add_verdict(page, "steady, seed 1", ["✔ holds 1 < 2", "✘ violated <b>"])
    add_verdict(page, "The oracle", "All 31 invariants hold.")
    text = page.read_text()
    where = [
        text.index(part)
        for part in ("<body>", "steady, seed 1", "1 &lt; 2", "&lt;b&gt;", "All 31", "</section>", "id='root'")
    ]
    assert where == sorted(where)
    assert text.count("<section") == text.count("</section>") == 1
    (tmp_path / "other.html").write_text("nothing")
    with pytest.raises(ValueError, match="is no report of Locust's"):
        report.add_verdict(tmp_path / "other.html", "", [])


def test_only_this_machines_own_addresses_are_loopback():
    for url in ("http://127.0.0.1:8001", "http://localhost", "http://[::1]:8001", "http://127.9.9.9"):
        assert loopback.is_loopback(url), url
    for url in (
        "http://192.0.2.1:8001",
        "http://orders.example",
        "http://127.0.0.1@192.0.2.1",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://0.0.0.0:8001",
        "127.0.0.1:8001",
    ):
        assert not loopback.is_loopback(url), url
