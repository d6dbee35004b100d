"""The mailbox as a real process: mail in by SMTP, out over HTTP, and what can go wrong between."""

import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from email.message import EmailMessage
from pathlib import Path
from uuid import uuid4

import aiosmtplib
import httpx
import pytest
from simulator_process import Simulator
from simulator_process import mailbox as new_mailbox


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = new_mailbox(tmp_path_factory.mktemp("mailbox"))
    simulator.start()
    yield simulator
    assert simulator.end() == 0


@pytest.fixture
async def mail(mailbox: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with mailbox.client() as client:
        await client.delete("/faults")
        await client.delete("/messages")
        yield client


async def send(mailbox: Simulator, subject: str = "Your order", *, to: str = "ann@example.org") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.org", to, subject
    message["Message-ID"] = f"<{uuid4()}@shop.example.org>"
    message.set_content("Thank you – 19,99 €\n.\nbye\n")
    await deliver(mailbox, message)
    return message


async def deliver(mailbox: Simulator, message: EmailMessage, *, timeout_seconds: float = 5) -> None:
    port = mailbox.ports["smtp-port"]
    await aiosmtplib.send(
        message, hostname="127.0.0.1", port=port, use_tls=False, start_tls=False, timeout=timeout_seconds
    )


async def test_mailbox_keeps_every_copy_of_a_message(mailbox: Simulator, mail: httpx.AsyncClient) -> None:
    message = await send(mailbox)
    await deliver(mailbox, message)
    await send(mailbox, to="bob@example.org")
    copies = (await mail.get("/messages", params={"message_id": message["Message-ID"]})).json()
    assert len(copies) == 2
    assert len({copy.pop("id") for copy in copies}) == 2
    assert copies[0].pop("headers")["Subject"] == "Your order"
    assert copies[0].pop("text").splitlines() == ["Thank you – 19,99 €", ".", "bye"]
    assert {copies[0].pop("received_at")[-6:]} == {"+00:00"}
    told = {"from": "shop@example.org", "to": ["ann@example.org"], "subject": "Your order"}
    assert copies[0] == told | {"message_id": message["Message-ID"]}
    assert len((await mail.get("/messages", params={"to": "bob@example.org"})).json()) == 1


async def test_mailbox_page_escapes_what_mails_contain(mailbox: Simulator, mail: httpx.AsyncClient) -> None:
    await send(mailbox, "older")
    await send(mailbox, "<script>alert('x')</script>", to='"<img/src=x>"@example.org')
    page = await mail.get("/")
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert page.text.index("&lt;script&gt;alert(&#x27;x&#x27;)") < page.text.index("older")


async def test_mail_that_no_parser_likes_is_kept(mailbox: Simulator, mail: httpx.AsyncClient) -> None:
    headers = (
        b'From: "\r\nSubject: =?x-nothing?q?=FF?= \xff\r\nMessage-ID: <\xff>\r\nContent-Type: text/plain; charset=x-no'
    )
    raw = headers + b"\r\n\r\n\xff\x00"
    port = mailbox.ports["smtp-port"]
    await aiosmtplib.send(
        raw, sender="a@example.org", recipients=["b@example.org"], hostname="127.0.0.1", port=port, start_tls=False
    )
    assert len((await mail.get("/messages")).json()) == 1
    assert (await mail.get("/")).status_code == 200


async def test_mailbox_rejects_for_now_or_for_good_and_keeps_nothing(
    mailbox: Simulator, mail: httpx.AsyncClient
) -> None:
    await mail.put("/faults", json={"reject_rate": 1})
    with pytest.raises(aiosmtplib.SMTPDataError) as later:
        await send(mailbox)
    assert later.value.code == 451
    await mail.put("/faults", json={"permanent_reject_rate": 1})
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as never:
        await send(mailbox)
    assert never.value.recipients[0].code == 550
    assert (await mail.get("/messages")).json() == []


async def test_mailbox_that_drops_after_data_has_kept_the_message(mailbox: Simulator, mail: httpx.AsyncClient) -> None:
    await mail.put("/faults", json={"drop_after_data": True})
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await send(mailbox)
    assert len((await mail.get("/messages")).json()) == 1


async def test_mailbox_that_hangs_keeps_nothing(mailbox: Simulator, mail: httpx.AsyncClient) -> None:
    await mail.put("/faults", json={"hang": True})
    message = EmailMessage()
    message["From"], message["To"] = "shop@example.org", "ann@example.org"
    with pytest.raises(aiosmtplib.SMTPReadTimeoutError):
        await deliver(mailbox, message, timeout_seconds=0.2)
    assert (await mail.get("/messages")).json() == []


async def test_restarted_mailbox_has_its_messages_and_faults(mailbox: Simulator, mail: httpx.AsyncClient) -> None:
    await send(mailbox)
    await mail.put("/faults", json={"seed": 3})
    before = (await mail.get("/messages")).json()
    mailbox.end(signal.SIGKILL)
    mailbox.start()
    async with mailbox.client() as restarted:
        assert (await restarted.get("/messages")).json() == before
        assert (await restarted.get("/faults")).json()["seed"] == 3
        assert (await restarted.delete("/messages")).json() == {"deleted": 1}


@contextmanager
def mailbox_of_its_own(folder: Path, *, read_on: bool = True) -> Iterator[Simulator]:
    simulator = new_mailbox(folder)
    simulator.start(read_on=read_on)
    try:
        yield simulator
    finally:
        simulator.end()


async def test_a_mail_that_was_kept_is_accepted_though_the_line_about_it_cannot_be_written(tmp_path: Path) -> None:
    """A sender that reads 500 gives the mail up, though the customer has it."""
    with mailbox_of_its_own(tmp_path, read_on=False) as simulator:
        await send(simulator)
        async with simulator.client() as mail:
            assert len((await mail.get("/messages")).json()) == 1


async def test_a_mail_that_could_not_be_kept_is_refused_for_now_and_not_for_good(tmp_path: Path) -> None:
    with mailbox_of_its_own(tmp_path) as simulator, closing(sqlite3.connect(tmp_path / "m.db")) as database:
        database.execute("ALTER TABLE message RENAME TO elsewhere")
        with pytest.raises(aiosmtplib.SMTPDataError) as refused:
            await send(simulator)
        assert refused.value.code == 451
        database.execute("ALTER TABLE elsewhere RENAME TO message")
        async with simulator.client() as mail:
            assert (await mail.get("/messages")).json() == []
            await send(simulator)
            assert len((await mail.get("/messages")).json()) == 1
