"""The plan of `make chaos`: it repeats, it varies, and what it expects of an order follows from what it does to it."""

import pytest
from holdfast_local import chaos
from holdfast_local.chaos_client import Purchase
from holdfast_local.chaos_faults import Flush, Pause, Signal, Switch


def test_a_round_is_the_same_for_the_same_seed_and_number_and_for_no_other():
    assert chaos.plan(1, 7) == chaos.plan(1, 7)
    assert len({str(chaos.plan(seed, number)) for seed in (1, 2) for number in (1, 2, 3)}) == 6


def test_twenty_rounds_have_every_kind_of_fault():
    faults = [fault for number in range(1, 21) for _, fault in chaos.plan(1, number).faults]
    assert {type(fault) for fault in faults} == {Signal, Pause, Flush, Switch}
    assert {fault.number.name for fault in faults if isinstance(fault, Signal)} == {"SIGKILL", "SIGTERM"}


@pytest.mark.parametrize(
    ("card", "called_off_after", "outcome"),
    [
        ("pm_card_ok", None, "confirmed"),
        ("pm_card_ok", 0.0, "cancelled"),
        ("pm_card_declined", None, "cancelled"),
        ("pm_card_fails_later", None, "cancelled"),
    ],
)
def test_how_an_order_has_to_end_follows_from_its_card_and_its_cancellation(card, called_off_after, outcome):
    errand = chaos.Errand(purchase=Purchase(key="k", card=card), at=0, called_off_after=called_off_after)
    assert errand.outcome == outcome
