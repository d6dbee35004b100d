"""A healthy, settled platform, as it was recorded: every row of the four databases and of the simulators' files, and
what its clients were answered. `python tests/infra/healthy_state.py` records it anew; do so after a migration.

It holds an order that is confirmed, one that was declined, one whose charge failed later, one that was refunded, and
one that was cancelled at once; a client with a webhook endpoint, and one whose endpoint is gone and who has a notice.
"""

import asyncio
import json
import re
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
from holdfast_local.chaos_client import PatientClient, Purchase, open_patient_client
from holdfast_local.chaos_settings import HURRIED, passing_settings
from holdfast_local.demo_client import Endpoint
from holdfast_local.demo_watch import poll
from holdfast_local.platform import running_platform
from holdfast_local.secrets import SERVICES
from oracle.judging import examine
from oracle.report import as_json
from oracle.sources import Sources
from oracle.terms import Terms

RECORDING = Path(__file__).with_name("healthy_state.json")
TABLES: Mapping[str, tuple[str, ...]] = {
    "orders": ("orders", "order_line"),
    "payments": ("payment", "charge_attempt", "refund"),
    "notifications": ("mail", "order_progress", "webhook_endpoint", "webhook_delivery"),
    "webhook-ingest": ("provider_event",),
}
"""In the order in which they refer to each other."""
MECHANICS = ("job", "outbox", "inbox", "dead_event", "idempotency_record", "schedule", "stream_position", "job_failure")
SIMULATORS: Mapping[str, tuple[str, ...]] = {
    "payment-provider": ("idempotency", "transfer", "event"),
    "mailbox": ("message",),
    "customer-endpoint": ("attempt",),
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
CUSTOMER = "http://customer.example"
"""Stands for the address of the customer's endpoint."""

_PATIENCE_SECONDS = 60.0

type Rows = list[dict[str, Any]]


def load(customer_url: str) -> dict[str, Any]:
    """The recording as if it had been made a minute ago, with the customer at this address."""
    text = RECORDING.read_text("utf-8")
    moved = datetime.now(UTC) - timedelta(minutes=1) - datetime.fromisoformat(json.loads(text)["recorded_at"])

    def move(found: re.Match[str]) -> str:
        return (datetime.fromisoformat(found[0]) + moved).isoformat(timespec="seconds")

    return json.loads(_TIME.sub(move, text).replace(CUSTOMER, customer_url))


async def restore_database(connection: asyncpg.Connection, service: str, tables: Mapping[str, Rows]) -> None:
    """Exactly these rows; what else the migrations have written stays."""
    for table in reversed((*TABLES[service], *MECHANICS)):
        await connection.execute(f"DELETE FROM {table}")
    for table, rows in tables.items():
        if rows:
            await connection.execute(
                f"INSERT INTO {table} OVERRIDING SYSTEM VALUE"
                f" SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1::jsonb)",
                json.dumps(rows),
            )


def restore_simulator(database: sqlite3.Connection, tables: Mapping[str, Rows]) -> None:
    with database:
        for table in reversed(tables):
            database.execute(f"DELETE FROM {table}")
        for table, rows in tables.items():
            for row in rows:
                names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
                database.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", row)


async def record() -> None:
    with passing_settings() as settings:
        async with (
            running_platform(settings, overrides=HURRIED) as platform,
            open_patient_client(platform.installation) as client,
        ):
            installation = platform.installation
            answers = await _live(client)
            sources = Sources(
                **{f"{service.replace('-', '_')}_dsn": installation.database_dsn(service) for service in SERVICES},
                provider_url=installation.url("payment_provider"),
                mailbox_url=installation.url("mailbox"),
                customer_url=installation.url("customer_endpoint"),
            )
            report = await examine(sources, Terms(), wait=60)
            if report.verdict != "holds":
                raise SystemExit(as_json(report))
            databases = {service: await _rows(installation.database_dsn(service), service) for service in SERVICES}
            files = {name: settings.state / f"{name}.sqlite" for name in SIMULATORS}
            recording = {
                "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "databases": databases,
                "simulators": {name: _kept(file, SIMULATORS[name]) for name, file in files.items()},
                "answers": answers,
            }
            text = json.dumps(recording, ensure_ascii=False).replace(sources.customer_url, CUSTOMER)
    RECORDING.write_text(_line_by_line(json.loads(text)), "utf-8")


async def _live(client: PatientClient) -> list[dict[str, object]]:
    """What happens, and what clients are answered."""
    await client.set_customer_faults({"gone_rate": 1.0})
    await client.create_endpoint("acme")
    bought = [await _buy(client, Purchase(key="gone", client="acme"))]
    await poll(partial(_is_lost, client), seconds=_PATIENCE_SECONDS, problem=lambda: "the endpoint is still enabled")
    await client.set_customer_faults({})
    endpoint = Endpoint.model_validate_json((await client.create_endpoint("globex")).body)
    await client.give_secret("globex", endpoint.secret)
    await asyncio.sleep(6)  # the oracle judges an endpoint's events from 5 s after its last change on
    for key, card in (("confirmed", "pm_card_ok"), ("declined", "pm_card_declined"), ("late", "pm_card_fails_later")):
        bought.append(await _buy(client, Purchase(key=key, client="globex", card=card, quantity=2)))
    bought.append(await _buy(client, Purchase(key="refunded", client="globex")))
    order = bought[-1]["order"]["id"]
    await poll(
        partial(_is_confirmed, client, order), seconds=_PATIENCE_SECONDS, problem=lambda: f"{order} is not confirmed"
    )
    await client.call_off("globex", order)
    bought.append(await _buy(client, Purchase(key="cancelled", client="initech")))
    await client.call_off("initech", bought[-1]["order"]["id"])
    return bought


async def _buy(client: PatientClient, purchase: Purchase) -> dict[str, Any]:
    answer = await client.place_purchase(purchase)
    return {"client": purchase.client, "key": purchase.key, "order": json.loads(answer.body)}


async def _is_confirmed(client: PatientClient, order: str) -> bool:
    return await client.read_status("globex", order) == "confirmed"


async def _is_lost(client: PatientClient) -> bool:
    url = client._installation.url("notifications") + "/v1/webhook-endpoints"
    async with client._session.get(url, headers=client._as("acme"), raise_for_status=True) as response:
        return not (await response.json())["items"][0]["enabled"]


async def _rows(dsn: str, service: str) -> dict[str, Rows]:
    connection = await asyncpg.connect(dsn)
    found = {
        table: [json.loads(row[0]) for row in await connection.fetch(f"SELECT to_jsonb(t) FROM {table} t ORDER BY 1")]
        for table in (*TABLES[service], *MECHANICS)
        if table != "job"  # one that is to look again later would soon be due, and nobody is there
    }
    await connection.close()
    return found


def _kept(file: Path, tables: tuple[str, ...]) -> dict[str, Rows]:
    database = sqlite3.connect(file)
    database.row_factory = sqlite3.Row
    return {table: [dict(row) for row in database.execute(f"SELECT * FROM {table}")] for table in tables}


def _line_by_line(value: object, depth: int = 0) -> str:
    """JSON with a row to a line."""
    if isinstance(value, dict) and depth < 3:
        inner = ",\n".join(f"{json.dumps(name)}: {_line_by_line(of, depth + 1)}" for name, of in value.items())
        return f"{{\n{inner}\n}}" + ("\n" if depth == 0 else "")
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    asyncio.run(record())
