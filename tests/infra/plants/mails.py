"""Wrong mails."""

import json
from datetime import UTC, datetime
from uuid import uuid4

from planting import CONFIRMED, Planted

from plants.registry import violates, violates_only

COPIES = "a mail arrives again only after an interruption"
MAILS = "each order event is mailed under one Message-ID"
MAIL_ORDER = "an order's mails first arrive in the order of its events"
MAIL_WORDS = "a mail says what its event says"


@violates_only(COPIES)
async def a_second_copy_without_an_interruption(planted: Planted) -> str:
    return planted.copy(await planted.event(CONFIRMED, 1))


@violates_only(COPIES)
async def a_mail_sent_many_times_around_one_crash(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 1)
    for seconds in (1, 2, 3):
        planted.copy(event, seconds=seconds)
    crash = planted.outside("mailbox", "SELECT received_at FROM message WHERE message_id LIKE ?", f"<{event}@%")
    planted.write_history({"interrupted": "SIGKILL notifications-worker", "since": crash, "until": crash})
    return f"<{event}"


@violates_only(COPIES)
async def a_mail_sent_again_long_after_the_crash_of_another(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 1)
    planted.copy(event, seconds=1)
    now = datetime.now(UTC).isoformat()
    planted.write_history({"interrupted": "SIGKILL notifications-worker", "since": now, "until": now})
    return f"<{event}"


@violates_only(MAILS)
async def an_order_event_without_a_mail(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    planted.outside("mailbox", "DELETE FROM message WHERE message_id LIKE ?", f"<{event}@%")
    return await planted.order(CONFIRMED)


@violates_only(MAILS)
async def a_mails_row_that_was_deleted(planted: Planted) -> str:
    event = await planted.event(CONFIRMED, 2)
    await planted.execute("notifications", "DELETE FROM mail WHERE event_id = $1", event)
    return await planted.order(CONFIRMED)


@violates(MAILS)
async def a_mail_under_a_second_message_id(planted: Planted) -> str:
    planted.copy(await planted.event(CONFIRMED, 2), domain="other.example")
    return await planted.order(CONFIRMED)


@violates_only(MAILS)
async def a_mail_about_what_never_happened(planted: Planted) -> str:
    ghost = f"<{uuid4()}@holdfast.example>"
    planted.outside(
        "mailbox",
        "INSERT INTO message (message_id, sender, recipients, subject, text, headers, received_at)"
        " SELECT ?, sender, recipients, subject, text, headers, received_at FROM message LIMIT 1",
        ghost,
    )
    return ghost


@violates_only(MAILS)
async def a_mail_about_an_order_that_does_not_exist(planted: Planted) -> str:
    event = str(uuid4())
    await planted.execute(
        "notifications",
        "INSERT INTO mail (event_id, order_id, version, client_id, event_type, recipient, subject, text, status)"
        " VALUES ($1, $2, 1, 'acme', 'order.placed', 'a@example.org', '', '', 'sent')",
        event,
        str(uuid4()),
    )
    return event


@violates_only(MAIL_ORDER)
async def mails_in_reverse_order(planted: Planted) -> str:
    first, second = await planted.event(CONFIRMED, 1), await planted.event(CONFIRMED, 2)
    numbers = [
        planted.outside("mailbox", "SELECT id FROM message WHERE message_id LIKE ?", f"<{e}@%") for e in (first, second)
    ]
    for old, new in ((numbers[0], -1), (numbers[1], numbers[0]), (-1, numbers[1])):
        planted.outside("mailbox", "UPDATE message SET id = ? WHERE id = ?", new, old)
    return await planted.order(CONFIRMED)


@violates_only(MAIL_WORDS)
async def a_mail_that_arrived_at_another_recipient(planted: Planted) -> str:
    event = f"<{await planted.event(CONFIRMED, 2)}"
    planted.outside(
        "mailbox", "UPDATE message SET recipients = '[\"eve@example.org\"]' WHERE message_id LIKE ?", f"{event}%"
    )
    return event


@violates_only(MAIL_WORDS)
async def a_mail_that_arrived_with_another_text(planted: Planted) -> str:
    event = f"<{await planted.event(CONFIRMED, 2)}"
    planted.outside("mailbox", "UPDATE message SET text = 'Hello' WHERE message_id LIKE ?", f"{event}%")
    return event


async def rewrite_mail(planted: Planted, column: str, value: str) -> str:
    """As it was written and as it arrived."""
    event = await planted.event(CONFIRMED, 2)
    await planted.execute("notifications", f"UPDATE mail SET {column} = $2 WHERE event_id = $1", event, value)
    there, arrived = ("recipients", json.dumps([value])) if column == "recipient" else (column, value)
    planted.outside("mailbox", f"UPDATE message SET {there} = ? WHERE message_id LIKE ?", arrived, f"<{event}@%")
    return event


@violates_only(MAIL_WORDS)
async def a_mail_to_another_recipient(planted: Planted) -> str:
    return await rewrite_mail(planted, "recipient", "eve@example.org")


@violates_only(MAIL_WORDS)
async def a_mail_with_another_subject(planted: Planted) -> str:
    return await rewrite_mail(planted, "subject", "Your order was cancelled")


@violates_only(MAIL_WORDS)
async def a_mail_over_another_amount(planted: Planted) -> str:
    return await rewrite_mail(
        planted, "text", f"Your payment of 0.01 EUR has arrived.\n\nOrder {await planted.order(CONFIRMED)}"
    )
