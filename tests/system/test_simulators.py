"""The payment provider and the mailbox as real processes: what the platform may rely on, and what it may not."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from threading import Thread
from typing import IO, Any
from uuid import uuid4

import aiosmtplib
import httpx
import pytest
from aiohttp import web
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

BIN = Path(sys.executable).parent
SECRET = "whsec_c2ltdWxhdG9yLXRlc3Qtc2VjcmV0LTMyLWJ5dGVz"
AUTHORIZATION = {"Authorization": "Bearer test-api-key"}
DEADLINE_SECONDS = 10
NEVER = 0
MEMORY_LIMIT_KB = 45_000

type Json = dict[str, Any]


@dataclass
class Simulator:
    """A simulator's process; `start` may be called again after `end`, and gets the same ports."""

    command: list[str]
    ports: dict[str, int]
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        options = [str(part) for name, port in self.ports.items() for part in (f"--{name}", port)]
        self.process = subprocess.Popen([*self.command, *options], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        Thread(target=drain, args=[self.process.stdout]).start()
        self.ports = dict(zip(self.ports, (started[k] for k in ("port", "smtp_port") if k in started), strict=True))

    @property
    def running(self) -> subprocess.Popen[str]:
        assert self.process is not None
        return self.process

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Returns the exit code; more than three seconds are a failure."""
        self.running.send_signal(signum)
        code = self.running.wait(timeout=3)
        self.process = None
        return code

    def client(self) -> httpx.AsyncClient:
        url = f"http://127.0.0.1:{next(iter(self.ports.values()))}"
        return httpx.AsyncClient(base_url=url, headers=AUTHORIZATION, trust_env=False)


def drain(log: IO[str]) -> None:
    """Reads on, since a full pipe would stop the simulator."""
    with log:
        log.read()


@dataclass
class Delivery:
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Json:
        event: Json = json.loads(self.body)
        return event

    def is_genuine(self) -> bool:
        try:
            Webhook(SECRET).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Takes webhooks; `answers` holds the statuses to answer first, by reference, before it says 204."""

    url: str = ""
    deliveries: list[Delivery] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        delivery = Delivery(headers, await request.read())
        self.deliveries.append(delivery)
        self.arrived.set()
        statuses = self.answers.get(delivery.event["data"]["reference"])
        status = statuses.pop(0) if statuses else 204
        if status == NEVER:
            await asyncio.get_running_loop().create_future()
        return web.Response(status=status, headers={"Location": self.url})

    async def wait_for(self, reference: str, count: int = 1) -> list[Delivery]:
        """The deliveries about `reference`, once there are `count` of them."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found := [d for d in self.deliveries if d.event["data"]["reference"] == reference]) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return found


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    taker = web.Server(receiver.take, handler_cancellation=True)
    server = await asyncio.get_running_loop().create_server(taker, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    yield receiver
    server.close()


@pytest.fixture(scope="module")
def provider(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    folder = tmp_path_factory.mktemp("provider")
    (folder / "api_key").write_text("test-api-key\n")
    (folder / "webhook_secret").write_text(SECRET)
    options = ["--webhook-url", receiver.url, "--webhook-schedule", "0.1,0.2,0.3", "--webhook-timeout", "0.5"]
    files = ["--database", str(folder / "p.db"), "--secrets-dir", str(folder)]
    simulator = Simulator([str(BIN / "payment-provider"), *options, *files], {"port": 0})
    simulator.start()
    yield simulator
    assert simulator.end() == 0


@pytest.fixture
async def http(provider: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the provider, whose faults are off save for a fast capture."""
    async with provider.client() as client:
        await put_faults(client)
        yield client


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    database = tmp_path_factory.mktemp("mailbox") / "m.db"
    simulator = Simulator([str(BIN / "mailbox"), "--database", str(database)], {"http-port": 0, "smtp-port": 0})
    simulator.start()
    yield simulator
    assert simulator.end() == 0


@pytest.fixture
async def mail(mailbox: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with mailbox.client() as client:
        await client.delete("/faults")
        await client.delete("/messages")
        yield client


async def put_faults(http: httpx.AsyncClient, **switches: object) -> None:
    answer = await http.put("/faults", json={"capture_delay_seconds": 0.01} | switches)
    assert answer.status_code == 200, answer.text


def order(reference: str, **changes: object) -> Json:
    return {"reference": reference, "amount": 1999, "currency": "EUR", "payment_method": "pm_card_ok"} | changes


async def charge(http: httpx.AsyncClient, reference: str, **changes: object) -> httpx.Response:
    headers = {"Idempotency-Key": f"charge:{reference}"}
    return await http.post("/charges", json=order(reference, **changes), headers=headers)


async def refund(http: httpx.AsyncClient, reference: str, amount: int) -> httpx.Response:
    name = f"refund-{uuid4()}"
    payload = {"charge_reference": reference, "reference": name, "amount": amount}
    return await http.post("/refunds", json=payload, headers={"Idempotency-Key": name})


async def ledger(http: httpx.AsyncClient, reference: str) -> dict[str, list[Json]]:
    books = (await http.get("/ledger")).json()
    return {name: [row for row in rows if row["reference"] == reference] for name, rows in books.items()}


async def until[T](look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Polls until `wanted`, for what the simulator does on its own and tells nobody."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not wanted(found := await look()):  # noqa: ASYNC110  another process cannot set our events
            await asyncio.sleep(0.02)
    return found


@pytest.fixture
def reference() -> str:
    return str(uuid4())


async def test_request_without_the_api_key_is_refused(http: httpx.AsyncClient, reference: str) -> None:
    for header in ("", "Bearer wrong", "Basic test-api-key", "Bearer test-api-keyé"):
        answer = await http.post("/charges", json=order(reference), headers={b"Authorization": header.encode()})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert (await http.get("/charges/x", headers={"Authorization": ""})).status_code == 401
    assert (await ledger(http, reference))["charges"] == []


async def test_charge_without_an_idempotency_key_is_refused(http: httpx.AsyncClient, reference: str) -> None:
    answer = await http.post("/charges", json=order(reference))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "idempotency_key_missing")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"currency": "eur"}, "currency"),
        ({"reference": ""}, "reference"),
        ({"payment_method": None}, "payment_method"),
        ({"extra": 1}, "extra"),
    ],
)  # fmt: skip
async def test_invalid_charge_names_the_field_and_leaves_the_key_free(
    http: httpx.AsyncClient, reference: str, change: Json, name: str
) -> None:
    key = {"Idempotency-Key": f"key:{reference}"}
    answer = await http.post("/charges", json=order(reference) | change, headers=key)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, name)
    assert (await http.post("/charges", json=order(reference), headers=key)).status_code == 202


async def test_same_key_gets_the_same_bytes_and_one_charge(http: httpx.AsyncClient, reference: str) -> None:
    first = await charge(http, reference)
    assert first.status_code == 202
    assert first.json().items() >= {"status": "pending", "object_version": 1, "amount": 1999, "currency": "EUR"}.items()
    again = await charge(http, reference)
    assert (again.status_code, again.content) == (202, first.content)
    (row,) = (await ledger(http, reference))["charges"]
    assert (row["id"], row["requests"]) == (first.json()["id"], 2)


async def test_twenty_concurrent_posts_with_one_key_make_one_charge(http: httpx.AsyncClient, reference: str) -> None:
    await put_faults(http, latency_seconds=0.2)
    answers = await asyncio.gather(*(charge(http, reference) for _ in range(20)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(202) == 1
    assert statuses.count(409) == 19
    (row,) = (await ledger(http, reference))["charges"]
    assert row["requests"] == 20


async def test_key_reused_for_another_payload_or_path_is_refused(http: httpx.AsyncClient, reference: str) -> None:
    first = await charge(http, reference)
    other = await charge(http, reference, amount=2000)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    payload = {"charge_reference": reference, "reference": "r", "amount": 1}
    elsewhere = await http.post("/refunds", json=payload, headers={"Idempotency-Key": f"charge:{reference}"})
    assert elsewhere.json()["error"]["code"] == "idempotency_key_reused"
    assert (await charge(http, reference)).content == first.content


async def test_declined_card_is_answered_402_again_under_its_key(http: httpx.AsyncClient, reference: str) -> None:
    first = await charge(http, reference, payment_method="pm_card_declined")
    assert (first.status_code, first.json()["error"]["code"]) == (402, "card_declined")
    again = await charge(http, reference, payment_method="pm_card_declined")
    assert (again.status_code, again.content) == (402, first.content)
    found = (await http.get("/charges", params={"reference": reference})).json()["data"]
    assert [(row["status"], row["failure_code"]) for row in found] == [("failed", "card_declined")]


async def test_capture_is_reported_by_a_signed_webhook(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    accepted = (await charge(http, reference)).json()
    (delivery,) = await receiver.wait_for(reference)
    assert delivery.is_genuine()
    assert delivery.event["id"] == delivery.headers["webhook-id"]
    assert delivery.event["type"] == "charge.succeeded"
    told = {"id": accepted["id"], "object": "charge", "reference": reference, "object_version": 2}
    assert delivery.event["data"] == told | {"status": "captured", "amount": 1999, "currency": "EUR"}
    assert (await http.get(f"/charges/{accepted['id']}")).json()["status"] == "captured"


async def test_card_that_fails_later_is_accepted_and_then_reported_failed(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    assert (await charge(http, reference, payment_method="pm_card_fails_later")).status_code == 202
    (delivery,) = await receiver.wait_for(reference)
    assert delivery.event["type"] == "charge.failed"
    assert delivery.event["data"]["failure_code"] == "insufficient_funds"


async def test_webhook_is_retried_with_the_same_id_until_2xx_and_follows_no_redirect(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    receiver.answers[reference] = [500, 302, 404]
    await charge(http, reference)
    deliveries = await receiver.wait_for(reference, 4)
    assert len({delivery.headers["webhook-id"] for delivery in deliveries}) == 1
    assert len({delivery.body for delivery in deliveries}) == 1
    assert all(delivery.is_genuine() for delivery in deliveries)

    async def events() -> list[Json]:
        return (await ledger(http, reference))["events"]

    (event,) = await until(events, lambda found: found[0]["acknowledged"])
    assert event["attempts"] == 4


async def test_webhook_attempt_that_is_not_answered_in_time_is_made_again(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    receiver.answers[reference] = [NEVER]
    await charge(http, reference)
    first, second = await receiver.wait_for(reference, 2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_killed_provider_resumes_captures_webhooks_and_keys(
    provider: Simulator, http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    receiver.answers[reference] = [503]
    first = await charge(http, reference)
    (refused,) = await receiver.wait_for(reference)
    late = str(uuid4())
    await put_faults(http, capture_delay_seconds=0.2, seed=7)
    await charge(http, late)

    assert provider.end(signal.SIGKILL) == -signal.SIGKILL
    provider.start()

    (captured,) = await receiver.wait_for(late)
    assert captured.event["data"]["status"] == "captured"
    again = (await receiver.wait_for(reference, 2))[1]
    assert again.body == refused.body
    async with provider.client() as restarted:
        assert (await charge(restarted, reference)).content == first.content
        assert (await restarted.get("/faults")).json()["seed"] == 7


async def test_refund_needs_a_captured_charge_with_enough_left(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    await put_faults(http, capture_delay_seconds=60)
    pending = str(uuid4())
    await charge(http, pending)
    assert (await refund(http, pending, 1)).json()["error"]["code"] == "charge_not_captured"

    await put_faults(http)
    await charge(http, reference)
    await receiver.wait_for(reference)
    assert (await refund(http, reference, 1500)).status_code == 202
    exceeding = await refund(http, reference, 500)
    assert (exceeding.status_code, exceeding.json()["error"]["code"]) == (422, "refund_exceeds_charge")
    last = (await refund(http, reference, 499)).json()
    (delivery,) = await receiver.wait_for(last["reference"])
    assert (delivery.event["type"], delivery.event["data"]["status"]) == ("refund.succeeded", "succeeded")


async def test_failed_refund_gives_its_amount_back_and_its_key_repeats(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    await charge(http, reference)
    await receiver.wait_for(reference)
    await put_faults(http, refund_failure_rate=1)
    failed = await refund(http, reference, 1999)
    (delivery,) = await receiver.wait_for(failed.json()["reference"])
    assert delivery.event["type"] == "refund.failed"
    await put_faults(http)
    name = failed.json()["reference"]
    payload = {"charge_reference": reference, "reference": name, "amount": 1999}
    assert (await http.post("/refunds", json=payload, headers={"Idempotency-Key": name})).content == failed.content
    assert (await http.get("/refunds", params={"reference": name})).json()["data"][0]["status"] == "failed"
    assert (await refund(http, reference, 1999)).status_code == 202


@pytest.mark.parametrize(
    ("body", "name"),
    [('{"decline_rat": 1}', "decline_rat"), ('{"decline_rate": 1.1}', "decline_rate"), ('{"hang": 1}', "hang"),
     ('{"decline_rate": NaN}', "decline_rate"), ('{"latency_seconds": true}', "latency_seconds"),
     ('{"seed": 1.5}', "seed"), ('{"webhook_drop_rate": "1"}', "webhook_drop_rate"), ('{"seed": -1}', "seed")],
)  # fmt: skip
async def test_invalid_fault_names_the_switch_and_changes_nothing(
    http: httpx.AsyncClient, body: str, name: str
) -> None:
    before = (await http.get("/faults")).json()
    answer = await http.put("/faults", content=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, name)
    assert (await http.get("/faults")).json() == before


async def test_body_that_is_no_json_object_is_refused(http: httpx.AsyncClient, reference: str) -> None:
    for body in (b"", b"[]", b"\xff", b'{"reference": "\\ud800"}', b"[" * 60_000):
        answer = await http.post("/charges", content=body, headers={"Idempotency-Key": reference})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_same_seed_declines_the_same_charges(http: httpx.AsyncClient) -> None:
    async def run(seed: int) -> list[int]:
        await put_faults(http, seed=seed, decline_rate=0.5)
        return [(await charge(http, str(uuid4()))).status_code for _ in range(20)]

    first = await run(7)
    assert {202, 402} == set(first)
    assert await run(7) == first
    assert await run(8) != first


async def test_error_before_records_nothing_and_error_after_has_charged(
    http: httpx.AsyncClient, reference: str
) -> None:
    await put_faults(http, error_rate_before=1)
    assert (await charge(http, reference)).status_code == 500
    assert (await ledger(http, reference))["charges"] == []
    await put_faults(http, error_rate_after=1)
    assert (await charge(http, reference)).status_code == 500
    assert len((await ledger(http, reference))["charges"]) == 1
    await put_faults(http)
    assert (await charge(http, reference)).status_code == 202
    (row,) = (await ledger(http, reference))["charges"]
    assert row["requests"] == 3


async def test_charge_whose_client_gave_up_is_made_all_the_same(http: httpx.AsyncClient, reference: str) -> None:
    await put_faults(http, latency_seconds=0.3)
    http.timeout = httpx.Timeout(0.1)
    with pytest.raises(httpx.ReadTimeout):
        await charge(http, reference)
    await until(lambda: ledger(http, reference), lambda books: len(books["charges"]) == 1)


async def test_outage_refuses_or_hangs_without_recording(http: httpx.AsyncClient, reference: str) -> None:
    await put_faults(http, unavailable=True)
    assert (await charge(http, reference)).status_code == 503
    await put_faults(http, hang=True)
    http.timeout = httpx.Timeout(0.2)
    with pytest.raises(httpx.ReadTimeout):
        await charge(http, reference)
    assert (await http.get("/readyz")).status_code == 200
    assert (await ledger(http, reference))["charges"] == []


async def test_duplicated_webhook_keeps_its_id(http: httpx.AsyncClient, receiver: Receiver, reference: str) -> None:
    await put_faults(http, webhook_duplicate_rate=1)
    await charge(http, reference)
    first, second = await receiver.wait_for(reference, 2)
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


async def test_dropped_webhook_never_arrives_though_the_charge_is_captured(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    await put_faults(http, webhook_drop_rate=1)
    await charge(http, reference)
    books = await until(lambda: ledger(http, reference), lambda books: bool(books["events"]))
    assert books["charges"][0]["status"] == "captured"
    assert (books["events"][0]["attempts"], books["events"][0]["acknowledged"]) == (0, False)
    await put_faults(http)
    later = str(uuid4())
    await charge(http, later)
    await receiver.wait_for(later)
    assert await receiver.wait_for(reference, 0) == []


async def test_forged_webhook_fails_verification_beside_the_real_one(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    await put_faults(http, webhook_forged_rate=1)
    await charge(http, reference)
    forged, real = await receiver.wait_for(reference, 2)
    assert (forged.is_genuine(), real.is_genuine()) == (False, True)
    assert forged.event["id"] != real.event["id"]


async def test_skewed_clock_signs_a_time_that_receivers_refuse(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    await put_faults(http, clock_skew_seconds=-3600)
    await charge(http, reference)
    (delivery,) = await receiver.wait_for(reference)
    assert not delivery.is_genuine()


async def test_reordered_webhook_is_overtaken_by_a_later_one(
    http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    await put_faults(http, webhook_reorder_rate=1)
    await charge(http, reference)
    await until(lambda: ledger(http, reference), lambda books: bool(books["events"]))
    await put_faults(http)
    later = str(uuid4())
    await charge(http, later)
    await receiver.wait_for(reference)
    arrived = [delivery.event["data"]["reference"] for delivery in receiver.deliveries]
    assert arrived.index(later) < arrived.index(reference)


async def send(mailbox: Simulator, subject: str = "Your order", *, to: str = "ann@example.org") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.org", to, subject
    message["Message-ID"] = f"<{uuid4()}@shop.example.org>"
    message.set_content("Thank you – 19,99 €\n.\nbye\n")
    await deliver(mailbox, message)
    return message


async def deliver(mailbox: Simulator, message: EmailMessage) -> None:
    port = mailbox.ports["smtp-port"]
    await aiosmtplib.send(message, hostname="127.0.0.1", port=port, use_tls=False, start_tls=False, timeout=5)


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


async def test_sigterm_ends_a_provider_whose_request_hangs(provider: Simulator, http: httpx.AsyncClient) -> None:
    await put_faults(http, hang=True)
    hanging = asyncio.create_task(charge(http, "hanging"))
    await until(lambda: http.get("/ledger"), lambda _: True)
    assert await asyncio.to_thread(provider.end) == 0
    await asyncio.wait([hanging])
    provider.start()


def test_wrong_start_ends_with_one_line_and_no_traceback(
    provider: Simulator, mailbox: Simulator, tmp_path: Path
) -> None:
    (tmp_path / "api_key").write_text("k")
    (tmp_path / "webhook_secret").write_text("nonsense")
    good = [*provider.command, "--port", str(provider.ports["port"])]
    for command, message in (
        (good, f"cannot listen on 127.0.0.1:{provider.ports['port']}: Address already in use"),
        ([*good, "--secrets-dir", "/nowhere"], "cannot read the secret /nowhere/api_key"),
        ([*good, "--secrets-dir", str(tmp_path)], "the secret webhook_secret must be whsec_"),
        ([*good, "--webhook-url", "ftp://x"], "--webhook-url ftp://x is no http or https URL"),
        ([*good, "--port", "0", "--database", "/proc/x/y"], "cannot use the database /proc/x/y"),
        ([*mailbox.command, "--http-port", str(provider.ports["port"])], "cannot listen on"),
    ):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        assert ended.returncode == 1
        assert ended.stderr.startswith(message)
        assert ended.stderr.count("\n") == 1
    usage = subprocess.run([*good, "--webhook-schedule", "1,-2"], capture_output=True, text=True, check=False)
    assert (usage.returncode, "Traceback" in usage.stderr) == (2, False)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_simulators_are_small_and_know_nothing_of_the_platform(provider: Simulator, mailbox: Simulator) -> None:
    for simulator in (provider, mailbox):
        rollup = Path(f"/proc/{simulator.running.pid}/smaps_rollup").read_text()
        assert int(rollup.partition("Pss:")[2].split()[0]) < MEMORY_LIMIT_KB
    code = "import sys, simulators.mailbox.service, simulators.payment_provider.service\nprint(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"chassis", "orders", "payments", "notifications", "webhook_ingest", "oracle"} & set(modules)
