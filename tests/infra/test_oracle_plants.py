"""Each violation, planted alone in a healthy platform, is found; and each invariant has one that it alone finds."""

import pytest
from oracle.judging import examine
from oracle.report import as_json
from oracle.sources import Sources
from oracle.terms import Terms
from planting import Planted
from plants import mails, money, orders, webhooks, whole
from plants.registry import FOUND, FOUND_ALONE

PLANTED_BY = (orders, money, mails, webhooks, whole)


async def violated(planted: Planted, sources: Sources) -> dict[str, list[str]]:
    """The ids that are named, by invariant."""
    report = await examine(sources, Terms(), wait=0, history=planted.history)
    assert not report.moving, report.moving
    return {f.name: [offender.id for offender in f.offenders] for f in report.findings if not f.holds}


@pytest.mark.parametrize(("name", "plant"), FOUND, ids=[plant.__name__ for _, plant in FOUND])
async def test_a_planted_violation_is_named_with_the_offending_id(planted, sources, name, plant):
    offender = await plant(planted)
    found = await violated(planted, sources)
    assert any(named.startswith(offender) for named in found.get(name, [])), found


@pytest.mark.parametrize(("name", "plant"), FOUND_ALONE, ids=[plant.__name__ for _, plant in FOUND_ALONE])
async def test_a_planted_violation_is_found_by_one_invariant_only(planted, sources, name, plant):
    offender = await plant(planted)
    found = await violated(planted, sources)
    assert list(found) == [name], found
    assert any(named.startswith(offender) for named in found[name]), found


async def test_each_invariant_finds_something_that_no_other_does(planted, sources):
    report = await examine(sources, Terms(), wait=0, history=planted.history)
    assert report.verdict == "holds", as_json(report)
    names = [finding.name for finding in report.findings]
    assert len(names) == len(set(names))
    assert {name for name, _ in FOUND_ALONE} == set(names)
