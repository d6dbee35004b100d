"""Notifications: a mail per event of an order, in order, each under one Message-ID; the mail server is a real one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from backends import FreshDatabase
from chassis.config import Live
from chassis.config.settings import DatabaseSettings, RedisSettings
from chassis.errors import DependencyFailed, DependencyTimeout, DependencyUnavailable
from chassis.pooling import Database
from harness import AUTH, OTHER_SHOP, SHOP, UNLIMITED, attempt, count, deliver, envelope, execute, one, rows, running
from holdfast_local.ports import free_port
from notifications import jobs, use_cases
from notifications.api import create_app
from notifications.events import ORDER_EVENTS, on_order
from notifications.mailer import Mailer
from notifications.messages import ORDERS_STREAM, OrderCancelled, OrderConfirmed, OrderPlaced, SendMail
from notifications.models import MailStatus
from notifications.settings import NotificationsSettings, SmtpSettings
from post_office import PostOffice, post_office
from redis.asyncio import Redis
from waiting import eventually


@pytest.fixture
async def office() -> AsyncIterator[PostOffice]:
    async with post_office() as office:
        yield office


@dataclass(frozen=True, slots=True)
class Notifications:
    """The service under test, its database, and a client of its API."""

    settings: NotificationsSettings
    database: Database
    redis: Redis
    client_of: Callable[..., httpx.AsyncClient]

    async def deliver(self, *envelopes: str) -> None:
        handlers = [(kind, on_order) for kind in ORDER_EVENTS]
        await deliver(self.redis, self.database, handlers, *envelopes, stream=ORDERS_STREAM)

    async def written(self) -> list[tuple[int, str]]:
        """Version and type of the mails, in the order they were written."""
        found = await rows(self.database, "SELECT version, event_type FROM mail ORDER BY id")
        return [(row.version, row.event_type) for row in found]

    async def statuses(self) -> list[str]:
        return [row.status for row in await rows(self.database, "SELECT status FROM mail ORDER BY version")]

    async def send(self, settings: SmtpSettings) -> Exception | None:
        """One attempt at the job `send_mail` that is due first."""
        return await attempt(self.database, SendMail, partial(jobs.send_mail, self.database, Mailer(settings)))

    async def postpone(self, job_id: int, *, hours: int) -> None:
        """The job is due that many hours from now."""
        statement = "UPDATE job SET run_at = now() + make_interval(hours => :hours) WHERE id = :id"
        await execute(self.database, statement, hours=hours, id=job_id)


@pytest.fixture
async def notifications(
    empty_database: FreshDatabase,
    open_database: Callable[[DatabaseSettings], Database],
    patient_redis: RedisSettings,
    redis: Redis,
) -> AsyncIterator[Notifications]:
    database = await empty_database("notifications")
    settings = NotificationsSettings(database=database, redis=patient_redis, auth=AUTH, rate_limit=UNLIMITED)
    async with running(create_app(Live(settings))) as client_of:
        yield Notifications(settings, open_database(database), redis, client_of)


KINDS = {1: OrderPlaced, 2: OrderConfirmed, 3: OrderCancelled}


def order_event(order_id: UUID, version: int, *, event_id: UUID | None = None, **changes: object) -> str:
    """The event of an order's life at that version: placed, confirmed, cancelled."""
    fields: dict[str, Any] = {
        "order_id": order_id,
        "client_id": SHOP,
        "customer_email": "ada@example.com",
        "amount": 12898,
        "currency": "EUR",
        "reason": None,
    }
    event = KINDS[version](**(fields | changes))
    return envelope(event, aggregate_id=order_id, version=version, event_id=event_id)


IN_ORDER = [(1, "order.placed"), (2, "order.confirmed"), (3, "order.cancelled")]


# Writing mails


async def test_each_event_is_a_mail_with_its_job_in_the_order_of_versions(notifications: Notifications) -> None:
    order_id = uuid4()
    await notifications.deliver(*(order_event(order_id, version) for version in (1, 2, 3)))
    assert await notifications.written() == IN_ORDER
    assert await count(notifications.database, "job") == 3
    assert (await one(notifications.database, "SELECT * FROM order_progress")).last_version == 3


async def test_an_event_that_comes_too_early_is_held_until_those_before_it_came(notifications: Notifications) -> None:
    order_id = uuid4()
    third, second, first = (order_event(order_id, version) for version in (3, 2, 1))
    await notifications.deliver(third, second)
    assert await notifications.written() == []
    held = await rows(notifications.database, "SELECT status FROM inbox")
    assert [row.status for row in held] == ["held", "held"]
    await notifications.deliver(first)
    assert await notifications.written() == IN_ORDER
    assert {row.status for row in await rows(notifications.database, "SELECT status FROM inbox")} == {"handled"}


async def test_a_gap_of_one_order_holds_up_no_other(notifications: Notifications) -> None:
    await notifications.deliver(order_event(uuid4(), 2), order_event(uuid4(), 1))
    assert await notifications.written() == [(1, "order.placed")]


async def test_repeated_events_do_nothing(notifications: Notifications) -> None:
    order_id = uuid4()
    first, second, third = (order_event(order_id, version) for version in (1, 2, 3))
    await notifications.deliver(first, first, third, third, second, first, second, third)
    assert await notifications.written() == IN_ORDER
    assert await count(notifications.database, "job") == 3


async def test_an_event_forgotten_by_the_inbox_and_sent_again_does_nothing(notifications: Notifications) -> None:
    order_id = uuid4()
    first, second = (order_event(order_id, version) for version in (1, 2))
    await notifications.deliver(first, second)
    await execute(notifications.database, "DELETE FROM inbox")
    await notifications.deliver(first, second)
    assert await notifications.written() == IN_ORDER[:2]
    assert await count(notifications.database, "dead_event") == 0


async def test_events_of_one_order_handled_at_once_are_written_in_order(notifications: Notifications) -> None:
    order_id = uuid4()
    events = [order_event(order_id, version) for version in (3, 1, 2)]
    # Three consumers of one group: the stream's order is lost between them, and only versions restore it.
    await asyncio.gather(*(notifications.deliver(event) for event in events))
    assert await notifications.written() == IN_ORDER


async def test_an_event_waits_while_another_of_its_order_is_being_handled(notifications: Notifications) -> None:
    order_id = uuid4()
    await notifications.deliver(order_event(order_id, 1))

    async def is_waiting_or_over() -> bool:
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        row = await one(notifications.database, f"SELECT EXISTS ({waiting}) AS found")
        return bool(row.found) or second.done()

    async with notifications.database.transaction() as session:
        # Unless it waits, it could be held just after the one before it looked for held ones: for ever.
        assert await use_cases.last_version(session, order_id) == 1
        second = asyncio.create_task(notifications.deliver(order_event(order_id, 2)))
        await eventually(is_waiting_or_over)
        assert not second.done()
    await second
    assert await notifications.written() == IN_ORDER[:2]


async def test_a_mail_says_what_happened_for_how_much(notifications: Notifications) -> None:
    order_id = uuid4()
    await notifications.deliver(
        order_event(order_id, 1), order_event(order_id, 2), order_event(order_id, 3, reason="card_declined")
    )
    placed, confirmed, cancelled = await rows(notifications.database, "SELECT * FROM mail ORDER BY version")
    assert all(str(order_id) in mail.text for mail in (placed, confirmed, cancelled))
    assert "128.98 EUR" in placed.text
    assert "confirmed" in confirmed.subject
    assert "the card was declined" in cancelled.text


async def test_a_reason_nobody_knows_is_not_repeated_to_the_customer(notifications: Notifications) -> None:
    order_id = uuid4()
    await notifications.deliver(*(order_event(order_id, version, reason="E-77 {0} %s") for version in (1, 2, 3)))
    (cancelled,) = await rows(notifications.database, "SELECT * FROM mail WHERE version = 3")
    assert "the payment failed" in cancelled.text
    assert "E-77" not in cancelled.text


# Sending them


async def test_a_mail_is_sent_once_under_the_id_of_its_event(notifications: Notifications, office: PostOffice) -> None:
    event_id = uuid4()
    await notifications.deliver(order_event(uuid4(), 1, event_id=event_id))
    assert await notifications.send(office.settings) is None
    ((recipients, mail),) = office.mails
    assert recipients == ["ada@example.com"]
    assert mail["Message-ID"] == f"<{event_id}@holdfast.example>"
    assert (mail["To"], mail["From"]) == ("ada@example.com", "orders@holdfast.example")
    assert await notifications.statuses() == ["sent"]
    assert await count(notifications.database, "job") == 0


async def test_a_later_mail_waits_for_an_earlier_one_without_using_up_attempts(
    notifications: Notifications, office: PostOffice
) -> None:
    order_id = uuid4()
    await notifications.deliver(order_event(order_id, 1), order_event(order_id, 2))
    first, _ = await rows(notifications.database, "SELECT id FROM job ORDER BY id")
    await notifications.postpone(first.id, hours=1)
    for _ in range(40):  # more than its attempts
        assert await notifications.send(office.settings) is None
        waiting = await one(
            notifications.database, "SELECT *, run_at > now() AS is_later FROM job WHERE id <> :id", id=first.id
        )
        assert (waiting.status, waiting.attempt, waiting.is_later) == ("ready", 0, True)
        await notifications.postpone(waiting.id, hours=0)
    assert office.mails == []
    await notifications.postpone(first.id, hours=-1)
    assert await notifications.send(office.settings) is None
    assert await notifications.send(office.settings) is None
    assert office.subjects == ["We have your order", "Your order is confirmed"]


async def test_a_refused_mail_is_dead_and_the_later_one_goes(notifications: Notifications, office: PostOffice) -> None:
    order_id = uuid4()
    await notifications.deliver(order_event(order_id, 1), order_event(order_id, 2))
    office.recipient_answers = ["550 5.1.1 No such mailbox here"]
    assert await notifications.send(office.settings) is None
    assert await notifications.statuses() == ["dead", "pending"]
    assert "No such mailbox" in (await one(notifications.database, "SELECT reason FROM mail WHERE version = 1")).reason
    assert await notifications.send(office.settings) is None
    assert await notifications.statuses() == ["dead", "sent"]
    assert office.subjects == ["Your order is confirmed"]
    assert await count(notifications.database, "job") == 0


async def test_content_refused_for_good_is_dead_too(notifications: Notifications, office: PostOffice) -> None:
    await notifications.deliver(order_event(uuid4(), 1))
    office.data_answers = ["554 5.6.0 Not this"]
    assert await notifications.send(office.settings) is None
    assert await notifications.statuses() == ["dead"]


async def test_every_attempt_has_the_same_message_id(notifications: Notifications, office: PostOffice) -> None:
    event_id = uuid4()
    await notifications.deliver(order_event(uuid4(), 1, event_id=event_id))
    unreachable = office.settings.model_copy(update={"port": free_port()})
    assert isinstance(await notifications.send(unreachable), DependencyUnavailable)
    office.recipient_answers = ["451 4.3.0 Try again later"]
    assert isinstance(await notifications.send(office.settings), DependencyUnavailable)
    office.data_answers = ["421 4.3.2 Shutting down"]
    assert isinstance(await notifications.send(office.settings), DependencyUnavailable)
    office.drops_after_data = True
    assert isinstance(await notifications.send(office.settings), DependencyFailed)
    office.drops_after_data, office.hangs = False, True
    impatient = office.settings.model_copy(update={"timeout": 0.2})
    assert isinstance(await notifications.send(impatient), DependencyTimeout)
    office.hangs = False
    assert await notifications.statuses() == ["pending"]
    assert await notifications.send(office.settings) is None
    assert await notifications.statuses() == ["sent"]
    # The two whose answer was lost, and the one that is known to have arrived.
    assert [mail["Message-ID"] for _, mail in office.mails] == [f"<{event_id}@holdfast.example>"] * 3


async def test_a_settled_mail_is_not_sent_again(notifications: Notifications, office: PostOffice) -> None:
    await notifications.deliver(order_event(uuid4(), 1))
    mail = await one(notifications.database, "SELECT id FROM mail")
    async with notifications.database.transaction() as session:
        await use_cases.settle_mail(session, mail.id, MailStatus.SENT)
        await use_cases.settle_mail(session, mail.id, MailStatus.DEAD, "a stale worker's news")
    assert await notifications.send(office.settings) is None
    assert office.mails == []
    assert await notifications.statuses() == ["sent"]


BAD_ADDRESSES = [
    "ada@example.com\r\nBcc: eve@example.com",
    "ada@example.com\nSubject: hello",
    "eve@example.com, ada@example.com",
    "eve,ada@example.com",
    "Ada <ada@example.com>",
    "<ada@example.com>",
    "ada@example.com> NOTIFY=NEVER",
    "ada\x1c@example.com",
    "ada\u2028@example.com",
    "ädä@example.com",
    "ada",
    "",
]


async def test_an_address_cannot_add_a_header_or_a_recipient(notifications: Notifications, office: PostOffice) -> None:
    await notifications.deliver(*(order_event(uuid4(), 1, customer_email=address) for address in BAD_ADDRESSES))
    for _ in BAD_ADDRESSES:
        assert await notifications.send(office.settings) is None
    assert office.mails == []
    assert await notifications.statuses() == ["dead"] * len(BAD_ADDRESSES)


async def test_a_reason_cannot_add_a_header_or_end_the_mail(notifications: Notifications, office: PostOffice) -> None:
    order_id = uuid4()
    reason = "declined\r\nBcc: eve@example.com\r\n.\r\nMAIL FROM:<eve@example.com>\r\nЩ"
    await notifications.deliver(*(order_event(order_id, version, reason=reason) for version in (1, 2, 3)))
    for _ in range(3):
        assert await notifications.send(office.settings) is None
    assert [recipients for recipients, _ in office.mails] == [["ada@example.com"]] * 3
    for _, mail in office.mails:
        assert mail["Bcc"] is None
        assert mail.get_all("Subject") == [mail["Subject"]]
    text = office.mails[-1][1].get_payload(decode=True)
    assert isinstance(text, bytes)
    assert "MAIL FROM" not in text.decode()


# Reading


async def test_mails_are_listed_for_the_client_whose_order_it_is_and_nobody_else(notifications: Notifications) -> None:
    order_id = uuid4()
    await notifications.deliver(order_event(order_id, 1), order_event(order_id, 2), order_event(uuid4(), 1))
    parameters = {"order_id": str(order_id)}
    async with notifications.client_of(SHOP) as mine, notifications.client_of(OTHER_SHOP) as theirs:
        shown = (await mine.get("/v1/mails", params=parameters)).json()["items"]
        assert [(mail["event"], mail["status"]) for mail in shown] == [
            ("order.placed", "pending"),
            ("order.confirmed", "pending"),
        ]
        other = await theirs.get("/v1/mails", params=parameters)
        none = await theirs.get("/v1/mails", params={"order_id": str(uuid4())})
        assert other.json() == none.json() == {"items": []}
        assert (await mine.get("/v1/mails")).status_code == 422
        assert (await mine.get("/v1/mails", params={"order_id": "x"})).status_code == 422
    async with notifications.client_of(None) as nobody:
        assert (await nobody.get("/v1/mails", params=parameters)).status_code == 401
