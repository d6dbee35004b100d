"""A move that was not written down does not happen."""

from enum import StrEnum
from itertools import product

import pytest
from chassis.errors import IllegalTransition
from chassis.pooling.state_machine import StateMachine


class Light(StrEnum):
    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"
    OFF = "off"


MOVES = {
    Light.GREEN: [Light.YELLOW],
    Light.YELLOW: [Light.RED, Light.OFF],
    Light.RED: [Light.GREEN, Light.OFF],
}
LIGHT = StateMachine("light", MOVES)


@pytest.mark.parametrize(("source", "target"), list(product(Light, Light)))
def test_only_the_moves_that_were_written_down_are_legal(source: Light, target: Light) -> None:
    if target in MOVES.get(source, []):
        LIGHT.check(source, target)
    else:
        with pytest.raises(IllegalTransition, match=f"light cannot move from {source} to {target}"):
            LIGHT.check(source, target)


def test_the_sources_of_a_state_are_all_that_may_precede_it() -> None:
    assert LIGHT.sources(Light.OFF) == {Light.YELLOW, Light.RED}
    assert LIGHT.sources(Light.GREEN) == {Light.RED}


def test_a_state_without_moves_is_final() -> None:
    assert LIGHT.is_final(Light.OFF)
    assert not LIGHT.is_final(Light.GREEN)
