"""A mail that the mail server refused for good is sent again when an operator says so, under the same Message-ID."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

from api_keys import PEPPER
from chassis.config.settings import RedisSettings
from harness import count, one, rows
from notifications import use_cases
from service_process import Ended, OrdersInstallation
from test_notifications import Notifications, PostOffice, notifications, office, order_event

__all__ = ["notifications", "office"]

REFUSAL = "550 5.1.1 No such mailbox here"


async def refused_mail(notifications: Notifications, office: PostOffice, *, event_id: UUID | None = None) -> UUID:
    """The id of a mail that is dead."""
    await notifications.deliver(order_event(uuid4(), 1, event_id=event_id or uuid4()))
    office.recipient_answers = [REFUSAL]
    assert await notifications.send(office.settings) is None
    mail = await one(notifications.database, "SELECT id, status FROM mail ORDER BY id DESC LIMIT 1")
    assert mail.status == "dead"
    found: UUID = mail.id
    return found


async def resend(notifications: Notifications, mail_id: UUID | None = None, *, dry_run: bool = False) -> Sequence[UUID]:
    async with notifications.database.transaction() as session:
        return await use_cases.resend_mails(session, mail_id=mail_id, dry_run=dry_run)


async def test_a_resent_mail_arrives_under_the_message_id_that_it_had(
    notifications: Notifications, office: PostOffice
) -> None:
    event_id = uuid4()
    mail_id = await refused_mail(notifications, office, event_id=event_id)
    assert await resend(notifications, mail_id) == [mail_id]
    assert await notifications.send(office.settings) is None
    (sent,) = office.mails
    assert sent[1]["Message-ID"] == f"<{event_id}@holdfast.example>"
    mail = await one(notifications.database, "SELECT status, reason FROM mail")
    assert (mail.status, mail.reason) == ("sent", None)


async def test_a_mail_that_is_refused_again_is_dead_again_with_the_new_reason(
    notifications: Notifications, office: PostOffice
) -> None:
    mail_id = await refused_mail(notifications, office)
    await resend(notifications, mail_id)
    office.recipient_answers = ["550 5.2.1 Mailbox disabled"]
    assert await notifications.send(office.settings) is None
    async with notifications.database.read() as session:
        (dead,) = await use_cases.list_dead_mails(session)
    assert (dead.id, "Mailbox disabled" in (dead.reason or "")) == (mail_id, True)


async def test_a_mail_that_is_resent_twice_is_sent_once(notifications: Notifications, office: PostOffice) -> None:
    mail_id = await refused_mail(notifications, office)
    asked = await asyncio.gather(resend(notifications, mail_id), resend(notifications), resend(notifications, mail_id))
    assert sorted(map(len, asked)) == [0, 0, 1]
    assert await resend(notifications) == []
    assert await count(notifications.database, "job") == 1
    assert await notifications.send(office.settings) is None
    assert await resend(notifications, mail_id) == []
    assert len(office.mails) == 1


async def test_the_command_lists_dead_mails_and_resends_them_and_says_who_did_it(
    notifications: Notifications, office: PostOffice, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    installed = OrdersInstallation.bare(
        tmp_path, notifications.settings.database, redis_settings, command="notifications"
    )
    installed.secret("auth__peppers", json.dumps([PEPPER]))

    async def run(*words: str) -> Ended:
        return await installed.run("mails", *words)

    none = await run("dead")
    assert (none.code, none.stdout, none.stderr) == (0, "", "there are no dead mails\n")
    first, second = [await refused_mail(notifications, office) for _ in range(2)]
    listed = (await run("dead")).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [str(first), str(second)]
    assert "order.placed" in listed[0]
    assert "No such mailbox here" in listed[0]

    tried = await run("resend", "--all", "--dry-run")
    assert (tried.stdout, tried.stderr) == (f"would resend 2: {first}, {second}\n", "")
    resent = await run("resend", str(first))
    assert (resent.code, resent.stdout) == (0, f"will resend 1: {first}\n")
    audited = json.loads(resent.stderr)
    assert (audited["event"], audited["mail_ids"]) == ("mails_resent", [str(first)])
    assert audited["by"]
    statuses = await rows(notifications.database, "SELECT status FROM mail ORDER BY id")
    assert [row.status for row in statuses] == ["pending", "dead"]

    again = await run("resend", str(first))
    assert (again.code, again.stdout, again.stderr) == (1, "", f"mail {first} is not dead\n")
    assert (await run("resend")).code == 1
    assert (await run("resend", "--all")).stdout == f"will resend 1: {second}\n"
    nothing = await run("resend", "--all")
    assert (nothing.stdout, nothing.stderr) == ("will resend 0\n", "")
