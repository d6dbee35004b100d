"""The payment provider as a real process: what the platform may rely on, and what it may not."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx
import pytest
from aiohttp import web
from simulator_process import Json, Simulator, payment_provider, until
from webhook_receiver import NEVER, Receiver


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
    simulator = payment_provider(tmp_path_factory.mktemp("provider"), receiver.url)
    simulator.start()
    yield simulator
    assert simulator.end() == 0


@pytest.fixture
async def http(provider: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the provider, whose faults are off save for a fast capture."""
    async with provider.client() as client:
        await put_faults(client)
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
    await put_faults(http, latency_seconds=0.5)
    answers = await asyncio.gather(*(charge(http, reference) for _ in range(20)))
    # On a busy machine some arrive after the first has been answered, and are answered like it.
    assert {answer.status_code for answer in answers} == {202, 409}
    assert len({answer.content for answer in answers if answer.status_code == 202}) == 1
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


async def test_webhook_goes_on_with_the_trace_of_the_charge_and_a_forged_one_does_not(
    provider: Simulator, http: httpx.AsyncClient, receiver: Receiver, reference: str
) -> None:
    traceparent = f"00-{uuid4().hex}-00f067aa0ba902b7-01"
    await put_faults(http, webhook_forged_rate=1, capture_delay_seconds=0.3)
    headers = {"Idempotency-Key": f"charge:{reference}", "traceparent": traceparent}
    await http.post("/charges", json=order(reference), headers=headers)
    assert provider.end(signal.SIGKILL) == -signal.SIGKILL
    provider.start()
    forged, genuine = await receiver.wait_for(reference, 2)
    assert (genuine.is_genuine(), genuine.headers.get("traceparent")) == (True, traceparent)
    assert (forged.is_genuine(), forged.headers.get("traceparent")) == (False, None)


async def test_webhook_has_no_trace_when_the_charge_had_none_that_can_be_read(
    http: httpx.AsyncClient, receiver: Receiver
) -> None:
    for given in ({}, {"traceparent": "not-a-trace"}):
        reference = str(uuid4())
        await http.post("/charges", json=order(reference), headers={"Idempotency-Key": reference} | given)
        (delivery,) = await receiver.wait_for(reference)
        assert "traceparent" not in delivery.headers


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


async def test_lost_answer_closes_the_connection_though_the_charge_is_made(
    http: httpx.AsyncClient, reference: str
) -> None:
    await put_faults(http, answer_lost_rate=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await charge(http, reference)
    await put_faults(http)
    assert (await charge(http, reference)).headers["idempotent-replayed"] == "true"
    assert len((await ledger(http, reference))["charges"]) == 1


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


async def test_sigterm_ends_a_provider_whose_request_hangs(provider: Simulator, http: httpx.AsyncClient) -> None:
    await put_faults(http, hang=True)
    hanging = asyncio.create_task(charge(http, "hanging"))
    await until(lambda: http.get("/ledger"), lambda _: True)
    assert await asyncio.to_thread(provider.end) == 0
    await asyncio.wait([hanging])
    provider.start()
