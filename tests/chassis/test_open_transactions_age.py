"""How long the oldest transaction has been open, by what the run-time role may see."""

import asyncpg
import pytest
from backends import RealServer
from chassis.config.settings import DatabaseSettings
from chassis.events.open_transactions import MEASURE_SECONDS, OpenTransactions, oldest_seconds
from chassis.pooling.wakeup import connect


def age(database: str) -> float:
    found: float = oldest_seconds.labels(database)._value.get()
    return found


def test_the_age_is_that_of_the_transaction_seen_first_and_still_open() -> None:
    now = 100.0
    transactions = OpenTransactions("shop", clock=lambda: now)
    transactions.note(["1/1"])
    now = 160.0
    transactions.note(["1/1", "2/7"])
    assert age("shop") == 60
    now = 200.0
    transactions.note(["2/7"])
    assert age("shop") == 40
    transactions.forget()
    assert age("shop") == 0


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
async def test_a_transaction_of_another_role_is_seen_until_it_ends(
    database_settings: DatabaseSettings, postgres: RealServer, isolation: str
) -> None:
    now = 0.0
    transactions = OpenTransactions(database_settings.name, clock=lambda: now)
    reading = await connect(database_settings, application_name="relay")  # as the run-time role
    forgotten = await asyncpg.connect(postgres.dsn, database=database_settings.name)
    async with forgotten.transaction(isolation=isolation):
        await forgotten.execute("SELECT FROM job")
        await transactions.measure(reading)
        now += MEASURE_SECONDS
        await transactions.measure(reading)
        assert age(database_settings.name) == MEASURE_SECONDS
    now += MEASURE_SECONDS
    await transactions.measure(reading)
    assert age(database_settings.name) == 0
    await forgotten.close()
    await reading.close()
