"""The mailer: what a mail server gets, over which connections, and what the caller learns of a failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.header import decode_header, make_header
from email.message import Message
from functools import partial

import pytest
from chassis.errors import DependencyFailed, DependencyTimeout, DependencyUnavailable
from notifications.mailer import MAX_AGE_SECONDS, Mailer, MailRefused
from post_office import PostOffice, post_office
from waiting import eventually


@asynccontextmanager
async def mailing(*, max_age: float = MAX_AGE_SECONDS) -> AsyncIterator[tuple[PostOffice, Mailer]]:
    async with post_office() as office:
        mailer = Mailer(office.settings, max_age=max_age)
        yield office, mailer
        mailer.close()


async def send(mailer: Mailer, *, text: str = "Hello", subject: str = "Hello", number: int = 1) -> None:
    await mailer.send(message_id=f"m-{number}", recipient="ada@example.com", subject=subject, text=text)


def text_of(mail: Message) -> str:
    body = mail.get_payload(decode=True)
    assert isinstance(body, bytes)
    return body.decode()


async def test_a_mailer_says_of_each_refusal_whose_it_is() -> None:
    async with mailing() as (office, mailer):
        write = partial(mailer.send, message_id="m-1", subject="Hello", text="Hello")
        with pytest.raises(MailRefused):
            await write(recipient="not an address")
        office.recipient_answers = ["550 No"]
        with pytest.raises(MailRefused):
            await write(recipient="ada@example.com")
        office.recipient_answers = ["450 Later"]
        with pytest.raises(DependencyUnavailable):
            await write(recipient="ada@example.com")
        office.data_answers = ["554 No"]
        with pytest.raises(MailRefused):
            await write(recipient="ada@example.com")


async def test_mails_that_follow_each_other_share_a_connection() -> None:
    async with mailing() as (office, mailer):
        for number in range(5):
            await send(mailer, number=number)
        assert len(office.mails) == 5
        assert len(office.connections) == 1


async def test_mails_at_once_have_a_connection_each() -> None:
    async with mailing() as (office, mailer):
        await asyncio.gather(*(send(mailer, number=number) for number in range(5)))
        assert sorted(str(mail["Message-ID"]) for _, mail in office.mails) == [
            f"<m-{number}@holdfast.example>" for number in range(5)
        ]
        assert 1 < len(office.connections) <= 5


async def test_a_mail_begins_again_when_the_server_has_closed_the_idle_connection() -> None:
    async with mailing() as (office, mailer):
        await send(mailer, number=1)
        (first,) = office.connections
        assert first.transport is not None
        first.transport.abort()
        await send(mailer, number=2)
        assert len(office.mails) == 2
        assert len(office.connections) == 2


async def test_a_mail_begins_again_when_the_server_answers_that_it_closes_the_idle_connection() -> None:
    async with mailing() as (office, mailer):
        await send(mailer, number=1)
        office.sender_answers = ["421 idle for too long"]
        await send(mailer, number=2)
        assert len(office.mails) == 2
        assert len(office.connections) == 2


async def test_a_mail_that_the_server_may_have_is_not_sent_again() -> None:
    async with mailing() as (office, mailer):
        await send(mailer, number=1)
        office.drops_after_data = True
        with pytest.raises(DependencyFailed):
            await send(mailer, number=2)
        assert len(office.mails) == 2
        assert len(office.connections) == 1


async def test_a_connection_whose_mail_failed_or_hung_is_not_used_again() -> None:
    async with mailing() as (office, mailer):
        office.data_answers = ["451 Later"]
        with pytest.raises(DependencyUnavailable):
            await send(mailer, number=1)
        office.hangs = True
        with pytest.raises(DependencyTimeout):
            await send(mailer, number=2)
        hanging = asyncio.create_task(send(mailer, number=3))

        async def has_arrived() -> bool:
            return len(office.mails) == 2

        await eventually(has_arrived)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        office.hangs = False
        await send(mailer, number=4)
        assert len(office.connections) == 4


async def test_an_idle_connection_is_closed_at_its_age() -> None:
    async with mailing(max_age=0.2) as (office, mailer):
        await send(mailer)

        async def is_closed() -> bool:
            return office.open_connections == 0

        await eventually(is_closed)


async def test_a_connection_is_closed_after_the_mail_during_which_it_reached_its_age() -> None:
    async with mailing(max_age=0) as (office, mailer):
        await send(mailer, number=1)
        await send(mailer, number=2)
        assert len(office.connections) == 2


async def test_a_closed_mailer_leaves_no_connection_open() -> None:
    async with mailing() as (office, mailer):
        await send(mailer)
        mailer.close()

        async def is_closed() -> bool:
            return office.open_connections == 0

        await eventually(is_closed)


@pytest.mark.parametrize(
    "text",
    [
        "Hello\n\nOrder 1\n",
        ".\n..\n.leading\n",
        "Grüße, 世界\n",
        "x" * 5_000,
        "a\rb\x00c\x0bd\n",
        "ends\r\n.\r\nMAIL FROM:<eve@example.com>\r\n",
        "",
    ],
)
async def test_a_text_arrives_as_it_was_written(text: str) -> None:
    async with mailing() as (office, mailer):
        await send(mailer, text=text)
        ((_, mail),) = office.mails
        assert text_of(mail).replace("\r\n", "\n").rstrip("\n") == text.replace("\r\n", "\n").rstrip("\n")
        assert str(mail["Content-Type"]) == 'text/plain; charset="utf-8"'


@pytest.mark.parametrize("subject", ["Your order", "Grüße", "a\r\nBcc: eve@example.com", "\tx", "ä" * 300])
async def test_a_subject_arrives_with_its_words_and_adds_no_header(subject: str) -> None:
    async with mailing() as (office, mailer):
        await send(mailer, subject=subject)
        ((recipients, mail),) = office.mails
        assert recipients == ["ada@example.com"]
        assert mail["Bcc"] is None
        assert str(make_header(decode_header(mail["Subject"]))).split() == subject.split()
        assert set(mail.keys()) == {
            "From",
            "To",
            "Subject",
            "Message-ID",
            "Date",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        }
