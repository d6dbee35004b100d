"""The protocol's table of legal moves and the services' models say the same, and the databases allow no other state."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import notifications.models
import orders.models
import payments.models
import pytest
import webhook_ingest.models
from backends import FreshDatabase
from chassis.config.settings import DatabaseSettings
from chassis.errors import IllegalTransition
from chassis.pooling import Database
from chassis.pooling.state_machine import StateMachine
from harness import one

PROTOCOL = Path(__file__).parents[2] / "docs/reference/protocol.md"
_ROW = re.compile(r"^\| (?P<machine>\w+) \| (?P<moves>.+) \|$", re.MULTILINE)
_SPAN = re.compile(r"`([^`]*→[^`]*)`")

_MODELS = (notifications.models, orders.models, payments.models, webhook_ingest.models)
_PLURAL = {"order": "orders"}  # a word that SQL has taken


def machines() -> dict[str, tuple[Any, str, str]]:
    """Every machine in the services' models by its name in the protocol, with its package and its table.

    A machine's type names its own states, so that no narrower type fits them all.
    """
    found = [
        (machine, module.__name__.partition(".")[0])
        for module in _MODELS
        for machine in vars(module).values()
        if isinstance(machine, StateMachine)
    ]
    return {
        machine.name.title().replace(" ", ""): (
            machine,
            package,
            _PLURAL.get(machine.name, machine.name.replace(" ", "_")),
        )
        for machine, package in found
    }


MACHINES = machines()


def written_states() -> str:
    """The protocol's table of machines."""
    (states,) = re.findall(r"^## States\n(.*?)^`cancelling`", PROTOCOL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert isinstance(states, str)
    return states


def written_moves(machine: str) -> set[tuple[str, str]]:
    """The moves in the protocol's row of a machine; `(none)` is where a row is inserted, and no state."""
    row = next(row for row in _ROW.finditer(written_states()) if row["machine"] == machine)
    chains = [[step.split("/") for step in span.split("→")] for span in _SPAN.findall(row["moves"])]
    pairs = [pair for chain in chains for pair in itertools.pairwise(chain)]
    if "both also directly" in row["moves"]:
        pairs += [(chain[0], chain[-1]) for chain in chains]
    return {(source, target) for sources, targets in pairs for source in sources for target in targets} - {
        ("(none)", target) for _, targets in pairs for target in targets
    }


def test_every_machine_of_the_code_is_in_the_protocol_and_the_other_way_round() -> None:
    written = {row["machine"] for row in _ROW.finditer(written_states())} - {"Machine"}
    assert MACHINES.keys() == written


@pytest.mark.parametrize("machine", MACHINES)
def test_the_legal_moves_are_those_of_the_protocol(machine: str) -> None:
    model, _, _ = MACHINES[machine]
    coded = {(str(source), str(target)) for source, targets in model.moves.items() for target in targets}
    assert coded == written_moves(machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_other_move_is_refused(machine: str) -> None:
    model, _, _ = MACHINES[machine]
    legal = written_moves(machine)
    for source in model.moves:
        for target in model.moves:
            if (source, target) in legal:
                model.check(source, target)
            else:
                with pytest.raises(IllegalTransition):
                    model.check(source, target)


@pytest.mark.parametrize("machine", MACHINES)
async def test_the_database_knows_the_states_of_the_model_and_no_other(
    machine: str,
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
) -> None:
    model, package, table = MACHINES[machine]
    database = open_database(await empty_database(package))
    constraint = await one(
        database,
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint"
        " WHERE conrelid = CAST(:table AS regclass) AND conname = :name",
        table=table,
        name=f"{table}_status_check",
    )
    assert set(re.findall(r"'(\w+)'", constraint.text)) == {str(state) for state in model.moves}
