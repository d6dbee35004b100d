"""The protocol's table of legal moves and the models say the same, and the databases allow no other state."""

import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from chassis.errors import IllegalTransition
from chassis.pooling import Database
from chassis.settings import DatabaseSettings
from harness import one
from notifications.models import MAIL, WEBHOOK_DELIVERY
from orders.models import ORDER
from payments.models import PAYMENT, REFUND
from webhook_ingest.models import PROVIDER_EVENT

PROTOCOL = Path(__file__).parents[2] / "docs/reference/protocol.md"
_ROW = re.compile(r"^\| (?P<machine>\w+) \| (?P<moves>.+) \|$", re.MULTILINE)
_SPAN = re.compile(r"`([^`]*→[^`]*)`")

# A machine's type names its own states, so that no narrower type fits them all.
MACHINES: dict[str, Any] = {
    "Order": ORDER,
    "Payment": PAYMENT,
    "Refund": REFUND,
    "ProviderEvent": PROVIDER_EVENT,
    "WebhookDelivery": WEBHOOK_DELIVERY,
    "Mail": MAIL,
}
PLACES = {
    "Order": ("orders", "orders"),
    "Payment": ("payments", "payment"),
    "Refund": ("payments", "refund"),
    "ProviderEvent": ("webhook_ingest", "provider_event"),
    "WebhookDelivery": ("notifications", "webhook_delivery"),
    "Mail": ("notifications", "mail"),
}


def written_moves(machine: str) -> set[tuple[str, str]]:
    """The moves in the protocol's row of a machine; `(none)` is where a row is inserted, and no state."""
    (states,) = re.findall(r"^## States\n(.*?)^`cancelling`", PROTOCOL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    row = next(row for row in _ROW.finditer(states) if row["machine"] == machine)
    chains = [[step.split("/") for step in span.split("→")] for span in _SPAN.findall(row["moves"])]
    pairs = [pair for chain in chains for pair in itertools.pairwise(chain)]
    if "both also directly" in row["moves"]:
        pairs += [(chain[0], chain[-1]) for chain in chains]
    return {(source, target) for sources, targets in pairs for source in sources for target in targets} - {
        ("(none)", target) for _, targets in pairs for target in targets
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_the_legal_moves_are_those_of_the_protocol(machine: str) -> None:
    model = MACHINES[machine]
    coded = {(str(source), str(target)) for source, targets in model.moves.items() for target in targets}
    assert coded == written_moves(machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_other_move_is_refused(machine: str) -> None:
    model = MACHINES[machine]
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
    empty_database: Callable[[str], Awaitable[DatabaseSettings]],
    open_database: Callable[[DatabaseSettings], Database],
) -> None:
    package, table = PLACES[machine]
    database = open_database(await empty_database(package))
    constraint = await one(
        database,
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint"
        " WHERE conrelid = CAST(:table AS regclass) AND conname = :name",
        table=table,
        name=f"{table}_status_check",
    )
    assert set(re.findall(r"'(\w+)'", constraint.text)) == {str(state) for state in MACHINES[machine].moves}
