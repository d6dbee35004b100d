"""`holdfast explain order`: what is told of rows that stand in the four databases, whoever asks and however."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from backends import RealServer
from holdfast_local.audit import explain_running
from holdfast_local.errors import RunnerError
from holdfast_local.settings import PROJECT, LocalSettings
from oracle.story.cli import app
from typer.testing import CliRunner, Result

PACKAGES = {
    "orders": "orders",
    "payments": "payments",
    "notifications": "notifications",
    "webhook-ingest": "webhook_ingest",
}
ORDER, PAYMENT, REFUND = (f"01a21524-1bcc-7a40-b67b-c60bae3420{n}" for n in ("f5", "f6", "f7"))
EVENTS = {
    name: f"01a21524-1bcc-7a40-b67b-c60bae3421{n:02}" for n, name in enumerate(("placed", "cancelled", "refunded"))
}
MAIL, WEBHOOK_ROW, ENDPOINT, DELIVERY = (f"01a21524-1bcc-7a40-b67b-c60bae3422{n:02}" for n in range(4))
ADDRESS = "ada.lovelace@example.com"
SECRET = "whsec_c2VjcmV0"


def at(seconds: float) -> str:
    return f"timestamptz '2026-11-25 12:00:00+00' + interval '{seconds} seconds'"


# An order whose charge the breaker kept away once, that was captured, cancelled and refunded; what its customer is told
# of it is under way still.
ROWS = {
    "orders": f"""
        INSERT INTO orders (id, client_id, idempotency_key, customer_email, status, reason, amount, currency,
            payment_method, payment_id, paid_amount, version, created_at, updated_at, cancelling_at)
        VALUES ('{ORDER}', 'acme', 'k', '{ADDRESS}', 'cancelled', 'requested', 1234500, 'EUR', 'pm_card_visa',
            '{PAYMENT}', 0, 2, {at(0)}, {at(9)}, {at(5)});
        INSERT INTO order_line (order_id, position, product_id, quantity, unit_price)
        VALUES ('{ORDER}', 1, 'rope', 2, 1999), ('{ORDER}', 2, 'anchor', 1, 8900);
        INSERT INTO outbox (event_id, stream, type, schema, aggregate_id, aggregate_version, payload, occurred_at,
            published_at)
        VALUES ('{EVENTS["placed"]}', 'events:orders', 'order.placed', 1, '{ORDER}', 1, '{{}}', {at(0)}, {at(0.1)}),
            ('{EVENTS["cancelled"]}', 'events:orders', 'order.cancelled', 1, '{ORDER}', 2, '{{}}', {at(9)}, NULL);
        INSERT INTO inbox (consumer, event_id, received_at) VALUES ('orders', '{EVENTS["refunded"]}', {at(9)});
    """,
    "payments": f"""
        INSERT INTO payment (id, order_id, amount, currency, payment_method, status, void, created_at, updated_at)
        VALUES ('{PAYMENT}', '{ORDER}', 1234500, 'EUR', 'pm_card_visa', 'refunded', true, {at(0.3)}, {at(8.5)});
        INSERT INTO charge_attempt (payment_id, n, outcome, answer, created_at, ended_at)
        VALUES ('{PAYMENT}', 1, 'not_run', NULL, {at(0.4)}, {at(0.5)}),
            ('{PAYMENT}', 2, 'open', NULL, {at(0.6)}, NULL), ('{PAYMENT}', 3, 'open', 'accepted', {at(3)}, {at(3.25)});
        INSERT INTO refund (id, payment_id, n, amount, status, created_at, updated_at)
        VALUES ('{REFUND}', '{PAYMENT}', 1, 1234500, 'succeeded', {at(5.5)}, {at(8.5)});
        INSERT INTO outbox (event_id, stream, type, schema, aggregate_id, aggregate_version, payload, occurred_at,
            published_at)
        VALUES ('{EVENTS["refunded"]}', 'events:payments', 'payment.refunded', 1, '{PAYMENT}', 2, '{{}}', {at(8.5)},
            {at(8.6)});
        INSERT INTO job_failure (job_id, name, payload, attempt, error, failed_at, retry_at)
        VALUES (7, 'charge_payment', '{{"payment_id": "{PAYMENT}"}}', 1,
            'BreakerOpen: provider: circuit breaker is open', {at(0.7)}, {at(3)}),
            (8, 'make_refund', '{{"refund_id": "{REFUND}"}}', 1, 'the lease of attempt 1 expired on host:1', {at(7)},
            {at(7)}),
            (9, 'make_refund', '{{"refund_id": "{ENDPOINT}"}}', 1, 'of somebody else', {at(7)}, {at(7)});
    """,
    "notifications": f"""
        INSERT INTO inbox (consumer, event_id, received_at) VALUES ('notifications', '{EVENTS["placed"]}', {at(0.2)});
        INSERT INTO mail (id, event_id, order_id, version, client_id, event_type, recipient, subject, text, status,
            reason, created_at, settled_at)
        VALUES ('{MAIL}', '{EVENTS["placed"]}', '{ORDER}', 1, 'acme', 'order.placed', '{ADDRESS}', 'We have it', '',
            'dead', '550 no mailbox {ADDRESS}', {at(0.2)}, {at(62.2)});
        INSERT INTO webhook_endpoint (id, client_id, url, events, secret)
        VALUES ('{ENDPOINT}', 'acme', 'https://hooks.example.com/secret-path?token=1', '{{order.placed}}', '{SECRET}');
        INSERT INTO webhook_delivery (id, endpoint_id, client_id, event_id, event_type, order_id, body, status,
            attempts, last_status, reason, created_at)
        VALUES ('{DELIVERY}', '{ENDPOINT}', 'acme', '{EVENTS["placed"]}', 'order.placed', '{ORDER}', '', 'pending', 2,
            500, 'answered 500', {at(0.2)});
        INSERT INTO job (name, queue, priority, payload, payload_version, max_attempts, attempt, run_at)
        VALUES ('send_mail', 'default', 0, '{{"mail_id": "{MAIL}"}}', 1, 50, 3, now() + interval '1 hour');
        INSERT INTO dead_event (consumer, stream, entry_id, event, reason, died_at)
        VALUES ('notifications', 'events:orders', '1-1', '{{"event_id": "{EVENTS["cancelled"]}"}}', 'no such field',
            {at(9.5)});
    """,
    "webhook-ingest": f"""
        INSERT INTO provider_event (id, provider, event_id, body, status, received_at)
        VALUES ('{WEBHOOK_ROW}', 'payment-provider', 'evt_1',
            '{{"type": "refund.succeeded", "data": {{"reference": "{REFUND}"}}}}', 'stored', {at(8)});
    """,
}


@pytest.fixture(scope="module")
async def databases(fresh_database) -> AsyncIterator[dict[str, str]]:
    settings = {service: await fresh_database(package) for service, package in PACKAGES.items()}
    dsns = {
        service: f"postgresql://{s.user}:{s.password.get_secret_value()}@{s.host}:{s.port}/{s.name}"
        for service, s in settings.items()
    }
    for service, statements in ROWS.items():
        connection = await asyncpg.connect(dsns[service])
        await connection.execute(statements)
        await connection.close()
    return dsns


type Ask = Callable[..., Awaitable[Result]]


@pytest.fixture
def ask(databases) -> Ask:
    """The command, in a thread: it has an event loop of its own."""

    async def run(*arguments: str, dsns: dict[str, str] = databases) -> Result:
        variables = {f"ORACLE_{PACKAGES[service].upper()}_DSN": dsn for service, dsn in dsns.items()}
        return await asyncio.to_thread(CliRunner().invoke, app, ["explain", "order", *arguments], env=variables)

    return run


async def entries(ask: Ask) -> list[dict[str, Any]]:
    result = await ask(ORDER, "--json")
    found: list[dict[str, Any]] = json.loads(result.stdout)["entries"]
    return found


async def test_everything_is_told_in_time_order_with_how_long_it_took(ask):
    result = await ask(ORDER)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    expected = [
        "0.000 orders order pending: 2 × rope, 1 × anchor, 12,345.00 EUR by acme",
        "0.000 200 ms orders event order.placed, version 1 → notifications",
        "0.200 1:02 min notifications mail “We have it” to a…@example.com: refused for good: 550 no mailbox a…@exam",
        "0.200 notifications webhook order.placed → hooks.example.com: pending, 2 attempts, answered 500",
        "0.300 payments payment created",
        "0.400 100 ms payments charge, attempt 1: known not to have run",
        "0.600 payments charge, attempt 2: no answer recorded; it may have run",
        "0.700 payments job charge_payment, attempt 1: refused, provider: circuit breaker is open; again in 2.3 s",
        "3.000 250 ms payments charge, attempt 3: accepted",
        "5.000 orders order cancelling: requested",
        "5.500 payments refund 1 of 12,345.00 EUR requested",
        "7.000 payments job make_refund, attempt 1 failed: the lease of attempt 1 expired on host:1; taken over",
        "8.000 webhook-ingest webhook refund.succeeded from payment-provider: stored",
        "8.500 3.00 s payments refund 1 of 12,345.00 EUR succeeded",
        "8.500 payments payment refunded",
        "8.500 500 ms payments event payment.refunded, version 2 → orders",
        "9.000 orders order cancelled: requested",
        "9.000 orders event order.cancelled, version 2 → not published yet",
        f"9.500 notifications event {EVENTS['cancelled']} is a dead letter: no such field",
        "attempt 4 of 50 is due in",
    ]
    where = [told.find(line) for line in expected]
    assert -1 not in where, [line for line, position in zip(expected, where, strict=True) if position < 0]
    assert where == sorted(where)
    assert "somebody else" not in told


async def test_it_fits_a_hundred_columns_and_ends_no_line_with_blanks(ask):
    lines = (await ask(ORDER)).stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[0] == f"order {ORDER}: cancelled"
    assert lines[1] == "12,345.00 EUR, nothing paid; acme, a…@example.com"
    assert lines[2] == "placed 2026-11-25 12:00:00.000 UTC, settled after 9.00 s"


async def test_neither_form_has_an_address_a_card_a_secret_or_a_customers_path(ask):
    for result in (await ask(ORDER), await ask(ORDER, "--json")):
        for hidden in ("lovelace", "pm_card", SECRET, "secret-path", "token=1"):
            assert hidden not in result.output


async def test_programs_get_the_same_with_ids_and_states(ask):
    document = json.loads((await ask(ORDER, "--json")).stdout)
    assert document["order"]["status"] == "cancelled"
    assert document["settled_after"] == 9.0
    by_kind = {entry["kind"]: entry for entry in document["entries"]}
    assert by_kind.keys() == {"transition", "call", "breaker", "job", "event", "webhook_in", "webhook_out", "mail"}
    assert by_kind["breaker"]["details"]["job_id"] == "7"
    assert by_kind["webhook_out"]["details"]["webhook_id"] == DELIVERY
    assert by_kind["webhook_in"]["details"]["event_id"] == "evt_1"
    assert by_kind["call"] == {
        "at": "2026-11-25T12:00:03+00:00",
        "after": 3.0,
        "took": 0.25,
        "service": "payments",
        "kind": "call",
        "what": "charge, attempt 3: accepted",
        "is_bad": False,
        "details": {"attempt": 3, "outcome": "open", "answer": "accepted"},
    }


async def test_an_order_whose_events_are_forgotten_still_says_how_it_ended(databases, ask):
    connection = await asyncpg.connect(databases["orders"])
    try:
        async with connection.transaction():
            kept = await connection.fetch("DELETE FROM outbox RETURNING *")
        whats = [entry["what"] for entry in await entries(ask)]
    finally:
        names = [name for name in kept[0].keys() if name != "seq"]  # noqa: SIM118  a record is no mapping
        await connection.executemany(
            f"INSERT INTO outbox ({', '.join(names)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(names)))})",
            [[row[name] for name in names] for row in kept],
        )
        await connection.close()
    assert "order cancelled: requested" in whats
    assert not any(what.startswith("event order.") for what in whats)


async def test_an_order_that_is_not_there_is_code_1_and_what_is_no_id_code_2(ask):
    result = await ask(REFUND)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"there is no order {REFUND}\n"
    result = await ask("first")
    assert result.exit_code == 2
    assert "'first' is no order's id" in result.stderr


async def test_a_database_that_cannot_be_read_is_named_without_its_password(databases, ask):
    result = await ask(
        ORDER, dsns={**databases, "payments": re.sub(r":[^:@]+@", ":wrong-password@", databases["payments"])}
    )
    assert result.exit_code == 2
    assert "cannot read the database of payments" in result.stderr
    assert "wrong-password" not in result.stderr
    result = await ask(ORDER, dsns={"orders": databases["orders"]})
    assert result.exit_code == 2
    assert "set ORACLE_PAYMENTS_DSN, or payments_dsn in --config" in result.stderr


async def test_a_role_with_the_grants_of_the_page_can_tell_it_and_can_do_nothing_else(
    postgres: RealServer, databases, ask
):
    page = (PROJECT / "docs/reference/explain.md").read_text()
    [block] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    grants = dict(re.findall(r"-- in (\w+)\n(.*?)(?=-- in|\Z)", block, re.DOTALL))
    assert grants.keys() == set(PACKAGES.values())
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute("CREATE ROLE explainer LOGIN PASSWORD 'e'")
    await admin.close()
    dsns = {service: re.sub(r"//[^@]+@", "//explainer:e@", dsn) for service, dsn in databases.items()}
    for service, dsn in databases.items():
        name = dsn.rpartition("/")[2]
        inside = await asyncpg.connect(re.sub(r"/[^/]*$", f"/{name}", postgres.dsn))
        await inside.execute(
            f'GRANT CONNECT ON DATABASE "{name}" TO explainer; GRANT USAGE ON SCHEMA public TO explainer'
        )
        await inside.execute(grants[PACKAGES[service]])
        await inside.close()

    assert (await ask(ORDER, dsns=dsns)).stdout.split("send_mail")[0] == (await ask(ORDER)).stdout.split("send_mail")[0]

    explainer = await asyncpg.connect(dsns["notifications"])
    for forbidden in ("SELECT secret FROM webhook_endpoint", "DELETE FROM mail", "UPDATE job SET attempt = 0"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await explainer.execute(forbidden)
    await explainer.close()


def test_the_runner_needs_a_platform_that_runs(tmp_path):
    with pytest.raises(RunnerError, match="is not running"):
        explain_running(LocalSettings(state=tmp_path), ["order", ORDER])
