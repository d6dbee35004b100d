"""The payment provider's books: what its loop reads at each turn costs the same however many charges there were."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from simulators.payment_provider.store import SCHEMA, Event, Store, Transfer
from simulators.process import open_database

NOW = 1_000.0


def transfer(number: int, *, settles_at: float | None) -> Transfer:
    return Transfer(
        id=f"ch_{number}",
        object="charge",
        reference=f"order-{number}",
        idempotency_key=f"charge:{number}",
        amount=1,
        currency="EUR",
        status="captured" if settles_at is None else "pending",
        object_version=1,
        outcome="captured",
        created_at="2026-01-01T00:00:00.000+00:00",
        settles_at=settles_at,
    )


def event(number: int, *, next_attempt_at: float | None) -> Event:
    kind, reference = "charge.succeeded", f"order-{number}"
    return Event(id=f"evt_{number}", type=kind, reference=reference, body="{}", next_attempt_at=next_attempt_at)


def steps(database: sqlite3.Connection, turn: Callable[[], object]) -> int:
    """How many instructions SQLite's virtual machine runs in `turn`: unlike time, the same on every machine."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    database.set_progress_handler(step, 1)
    try:
        turn()
    finally:
        database.set_progress_handler(None, 0)
    return count


def test_a_turn_costs_the_same_however_many_charges_there_were(tmp_path: Path) -> None:
    database = open_database(tmp_path / "provider.sqlite", SCHEMA)
    store = Store(database)

    def turn() -> None:
        assert [due.id for due in store.due_transfers(NOW)] == ["ch_1", "ch_2"]
        assert store.next_settlement() == NOW - 2
        assert [waiting.id for waiting in store.waiting_events(64)] == ["evt_1"]

    with store.transaction():
        store.add(transfer(1, settles_at=NOW - 2))
        store.add(transfer(2, settles_at=NOW - 1))
        store.add(transfer(3, settles_at=NOW + 1))
        store.add(event(1, next_attempt_at=NOW))
    with_few = steps(database, turn)
    with store.transaction():
        for number in range(10, 510):
            store.add(transfer(number, settles_at=None))
            store.add(event(number, next_attempt_at=None))
    assert steps(database, turn) <= 1.1 * with_few
    database.close()
