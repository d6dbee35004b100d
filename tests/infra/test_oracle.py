"""When the oracle judges, and what is no violation. `test_oracle_plants` has what it finds."""

import json

import pytest
from oracle import judging
from oracle.databases import snapshot_of
from oracle.judging import examine
from oracle.sources import NoVerdict
from oracle.standing import look
from oracle.terms import Terms
from planting import CONFIRMED, REFUNDED, Planted


async def test_a_healthy_platform_holds_and_counts_stand_behind_each_verdict(planted, ask):
    result = await ask("--history", str(planted.history))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.startswith("✔ holds") for line in lines[:-1])
    assert lines[-1] == "All 31 invariants hold."
    assert "6 orders, 6 kept answers" in result.stdout
    assert "13 order events, 14 mails, 0 dead mails" in result.stdout
    assert "6 answers" in result.stdout


async def test_an_empty_platform_holds(planted, ask):
    await planted.clear()
    result = await ask()
    assert result.exit_code == 0, result.output


# What is no violation.


async def test_an_interruption_excuses_one_more_copy_of_each_mail_that_was_being_sent_and_no_third(planted, ask):
    events = [await planted.event(CONFIRMED, version) for version in (1, 2)]
    for event in events:
        planted.copy(event, seconds=2)
    query = "SELECT received_at FROM message WHERE message_id LIKE ? ORDER BY id"
    since, until = [planted.outside("mailbox", query, f"<{event}@%") for event in events]
    planted.write_history({"interrupted": "SIGSTOP", "since": since, "until": until})
    assert (await ask("--history", str(planted.history))).exit_code == 0
    assert (await ask()).exit_code == 1
    planted.copy(events[0], seconds=3)
    assert (await ask("--history", str(planted.history))).exit_code == 1


async def test_dead_letters_can_be_allowed_and_are_still_counted(planted, ask):
    await planted.job("dead")
    result = await ask("--allow-dead")
    assert result.exit_code == 0
    assert "1 dead letter (allowed)" in result.stdout


async def test_a_delivery_that_was_repeated_because_its_answer_was_lost_is_none(planted, ask):
    webhook = await planted.delivery(CONFIRMED, 2)
    planted.arrive(webhook)
    numbers = "SELECT min(id) FROM attempt WHERE webhook_id = ?"
    planted.outside(
        "customer-endpoint",
        f"UPDATE attempt SET status = NULL WHERE id = ({numbers})",
        webhook,
    )
    assert (await ask()).exit_code == 0


async def test_a_delivery_that_waits_for_its_customer_is_none_nor_those_behind_it(planted, ask):
    await planted.execute(
        "notifications",
        "UPDATE webhook_delivery SET status = 'pending', next_attempt_at = now() + interval '1 hour'",
    )
    planted.outside("customer-endpoint", "UPDATE attempt SET status = 500")
    result = await ask()
    assert result.exit_code == 0, result.output


async def test_of_customers_who_cannot_be_asked_only_our_side_is_judged(planted, ask, environment):
    planted.outside("customer-endpoint", "DELETE FROM attempt")
    assert (await ask()).exit_code == 1
    del environment["ORACLE_CUSTOMER_URL"]
    assert (await ask(env=environment)).exit_code == 0


async def test_a_dead_mail_need_not_arrive(planted, ask):
    event = await planted.event(CONFIRMED, 2)
    await planted.execute("notifications", "UPDATE mail SET status = 'dead' WHERE event_id = $1", event)
    planted.outside("mailbox", "DELETE FROM message WHERE message_id LIKE ?", f"<{event}@%")
    assert (await ask("--allow-dead")).exit_code == 0


async def test_a_key_may_be_used_again_after_a_day(planted, ask):
    await planted.execute("orders", "UPDATE orders SET created_at = now() - interval '25 hours'")
    again = (
        "UPDATE orders SET client_id = client_id, idempotency_key = $1, created_at = now() WHERE idempotency_key = $2"
    )
    await planted.execute("orders", "DELETE FROM idempotency_record WHERE key = $1", CONFIRMED)
    await planted.execute("orders", "UPDATE idempotency_record SET key = $1 WHERE key = $2", CONFIRMED, REFUNDED)
    await planted.execute("orders", again, CONFIRMED, REFUNDED)
    result = await ask()
    assert result.exit_code == 0, result.output


async def test_events_older_than_their_retention_may_be_forgotten(planted, ask):
    await planted.execute("orders", "UPDATE orders SET created_at = now() - interval '8 days'")
    await planted.execute("orders", "DELETE FROM outbox WHERE event_id = $1", await planted.event(REFUNDED, 1))
    order = await planted.order(CONFIRMED)
    await planted.execute("orders", "UPDATE orders SET updated_at = created_at WHERE id = $1", order)
    await planted.execute("orders", "DELETE FROM outbox WHERE aggregate_id = $1", order)
    result = await ask()
    assert result.exit_code == 0, result.output


async def test_a_webhook_that_was_never_acknowledged_is_the_providers_to_send_again(planted, ask):
    insert = "INSERT INTO event (id, type, reference, body) VALUES ('evt_dropped', 'charge.failed', ?, '')"
    planted.outside("payment-provider", insert, await planted.payment(CONFIRMED))
    assert (await ask()).exit_code == 0


async def test_a_job_for_later_is_not_due(planted, ask):
    await planted.job("ready", "now() + interval '1 hour'")
    assert (await ask()).exit_code == 0


# Waiting, and not being able to judge.


async def test_it_waits_until_nothing_is_under_way(planted: Planted, sources, monkeypatch):
    await planted.job("ready")
    looks = 0

    async def counted_look(*arguments):
        nonlocal looks
        looks += 1
        if looks == 3:
            await planted.execute("orders", "DELETE FROM job")
        return await look(*arguments)

    monkeypatch.setattr(judging, "look", counted_look)
    report = await examine(sources, Terms(), wait=30)
    assert (report.verdict, looks > 3) == ("holds", True)


async def test_a_platform_that_does_not_come_to_rest_gets_no_verdict(planted, ask):
    await planted.job("ready")
    planted.outside("mailbox", "DELETE FROM message")  # a violation only once it is quiet
    result = await ask()
    assert result.exit_code == 2
    assert "– not judged 16 more, which need quiet: 1 job under way" in result.stdout
    assert "No verdict" in result.stdout


async def test_what_holds_at_every_moment_is_judged_without_quiet(planted, ask):
    await planted.job("ready")
    await planted.add_charge(CONFIRMED, "captured")
    result = await ask()
    assert result.exit_code == 1
    assert await planted.order(CONFIRMED) in result.stdout


async def test_two_looks_that_differ_are_not_quiet(planted, sources, monkeypatch):
    async def changing_look(*arguments):
        await planted.execute("notifications", "UPDATE webhook_delivery SET attempts = attempts + 1")
        return await look(*arguments)

    monkeypatch.setattr(judging, "look", changing_look)
    report = await examine(sources, Terms(), wait=0)
    assert report.moving == "one look differs from the next"


async def test_everything_that_cannot_be_reached_is_named_without_a_traceback_or_a_password(planted, ask, environment):
    wrong = environment | {
        "ORACLE_ORDERS_DSN": environment["ORACLE_ORDERS_DSN"].replace("only-for-tests", "guessed"),
        "ORACLE_PAYMENTS_DSN": "postgresql://me:secr/et@127.0.0.1:1/payments",
        "ORACLE_PROVIDER_URL": "http://127.0.0.1:1",
        "ORACLE_MAILBOX_URL": f"{environment['ORACLE_MAILBOX_URL']}/nowhere",
    }
    result = await ask(env=wrong)
    assert result.exit_code == 2
    for source in ("database of orders", "database of payments", "provider's ledger", "mailbox"):
        assert f"cannot read the {source}" in result.stderr
    assert "it answered 404" in result.stderr
    assert not [secret for secret in ("guessed", "secr", "Traceback") if secret in result.output]


async def test_a_database_that_was_not_migrated_is_named(planted, ask, environment, postgres):
    result = await ask(env=environment | {"ORACLE_ORDERS_DSN": postgres.dsn})
    assert result.exit_code == 2
    assert "cannot read the database of orders" in result.stderr
    assert "does not exist" in result.stderr


async def test_a_ledger_of_another_shape_is_named(planted, ask, environment):
    result = await ask(env=environment | {"ORACLE_PROVIDER_URL": environment["ORACLE_MAILBOX_URL"]})
    assert result.exit_code == 2
    assert "cannot read the provider's ledger" in result.stderr


async def test_a_history_that_cannot_be_read_is_named(planted, ask, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"interrupted": "x"}\n')
    for name in ("history.jsonl", "absent.jsonl"):
        result = await ask("--history", str(tmp_path / name))
        assert result.exit_code == 2
        assert f"cannot read the history {tmp_path / name}" in result.stderr


async def test_no_verdict_is_said_in_json_too(planted, ask):
    result = await ask("--json", env={})
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"] == "none"


async def test_it_cannot_write(databases, planted):
    with pytest.raises(NoVerdict, match="read-only transaction"):
        async with snapshot_of(databases["orders"], "orders") as database:
            await database.fetch("DELETE FROM orders")


async def test_what_is_answered_after_the_databases_were_opened_is_not_asked_of_them(planted, sources, monkeypatch):
    looks = 0

    async def late_answer(*arguments):
        nonlocal looks
        looks += 1
        if looks > 1:  # the databases that are judged are open
            planted.answers.append(
                {"client": "acme", "key": "late", "order": planted.answers[0]["order"] | {"id": "late"}}
            )
            planted.write_history()
        return await look(*arguments)

    monkeypatch.setattr(judging, "look", late_answer)
    report = await examine(sources, Terms(), wait=0, history=planted.history)
    assert report.verdict == "holds"
