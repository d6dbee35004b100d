"""The customer's webhook endpoint as a real process: what it takes, what it keeps, and how it fails."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from simulator_process import SECRET, Json, Simulator, customer_endpoint, until
from standardwebhooks import Webhook

OTHER_SECRET = "whsec_YW5vdGhlci10ZXN0LXNlY3JldC0zMi1ieXRlcy0tLS0="
BODY = '{"type": "order.confirmed"}'


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = customer_endpoint(tmp_path_factory.mktemp("endpoint"))
    simulator.start()
    yield simulator
    assert simulator.end() == 0


@pytest.fixture
async def http(endpoint: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the endpoint, which has no faults, no attempts, and SECRET for `acme`."""
    async with endpoint.client() as client:
        await client.delete("/faults")
        await client.delete("/received")
        await put_secrets(client, SECRET)
        yield client


async def put_secrets(http: httpx.AsyncClient, *secrets: str) -> None:
    answer = await http.put("/secrets/acme", json={"secrets": secrets})
    assert answer.json() == {"name": "acme", "secrets": len(secrets)}


async def put_faults(http: httpx.AsyncClient, **switches: object) -> None:
    answer = await http.put("/faults", json=switches)
    assert answer.status_code == 200, answer.text


def signed(*, secret: str = SECRET, age_seconds: float = 0) -> dict[str, str]:
    """The headers of a delivery of BODY, sent `age_seconds` ago."""
    webhook_id, sent_at = f"msg_{uuid4().hex}", int(time.time() - age_seconds)
    signature = Webhook(secret).sign(webhook_id, datetime.fromtimestamp(sent_at, UTC), BODY)
    return {"webhook-id": webhook_id, "webhook-timestamp": str(sent_at), "webhook-signature": signature}


async def deliver(http: httpx.AsyncClient, headers: dict[str, str] | None = None, body: str = BODY) -> httpx.Response:
    return await http.post("/webhooks/acme", content=body, headers=signed() if headers is None else headers)


async def received(http: httpx.AsyncClient, **query: str) -> list[Json]:
    attempts: list[Json] = (await http.get("/received", params=query)).json()
    return attempts


async def test_signed_delivery_is_accepted_and_every_copy_of_it_kept(http: httpx.AsyncClient) -> None:
    headers = signed()
    assert [(await deliver(http, headers)).status_code for _ in range(2)] == [204, 204]
    await deliver(http)
    first, second = await received(http, webhook_id=headers["webhook-id"])
    assert first["id"] < second["id"]
    assert first.items() >= {"name": "acme", "verified": True, "reason": None, "fault": None, "status": 204}.items()
    assert (first["webhook_timestamp"], first["body"]) == (headers["webhook-timestamp"], BODY)
    assert first["headers"].items() >= headers.items()
    assert first["received_at"].endswith("+00:00")
    assert len(await received(http, name="acme")) == 3
    assert await received(http, name="globex") == []
    assert (await http.delete("/received")).json() == {"deleted": 3}


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        (dict, BODY, "Missing required headers"),
        (lambda: signed(secret=OTHER_SECRET), BODY, "No matching signature found"),
        (signed, f"{BODY} ", "No matching signature found"),
        (lambda: signed(age_seconds=3600), BODY, "Message timestamp too old"),
        (lambda: signed(age_seconds=-3600), BODY, "Message timestamp too new"),
        (lambda: signed() | {"webhook-timestamp": "soon"}, BODY, "Invalid Signature Headers"),
        (lambda: signed() | {"webhook-signature": "nonsense"}, BODY, "Malformed signature or body"),
    ],
)
async def test_delivery_that_does_not_verify_is_refused_and_kept_with_the_reason(
    http: httpx.AsyncClient, headers: Callable[[], dict[str, str]], body: str, reason: str
) -> None:
    assert (await deliver(http, headers(), body)).status_code == 401
    (attempt,) = await received(http)
    assert attempt.items() >= {"verified": False, "reason": reason, "status": 401, "body": body}.items()


async def test_several_secrets_verify_while_they_rotate_and_the_old_one_not_after(http: httpx.AsyncClient) -> None:
    await put_secrets(http, OTHER_SECRET, SECRET)
    assert (await deliver(http, signed(secret=SECRET))).status_code == 204
    assert (await deliver(http, signed(secret=OTHER_SECRET))).status_code == 204
    await put_secrets(http, OTHER_SECRET)
    assert (await deliver(http, signed(secret=SECRET))).status_code == 401


async def test_secrets_belong_to_one_name(http: httpx.AsyncClient) -> None:
    answer = await http.post("/webhooks/globex", content=BODY, headers=signed())
    assert answer.status_code == 401
    assert [attempt["reason"] for attempt in await received(http, name="globex")] == ["no secret is set"]


@pytest.mark.parametrize(
    ("path", "payload", "field"),
    [
        ("acme", {}, "secrets"),
        ("acme", {"secrets": SECRET}, "secrets"),
        ("acme", {"secrets": [1]}, "secrets"),
        ("acme", {"secrets": [OTHER_SECRET, "c2VjcmV0"]}, "secrets"),
        ("acme", {"secrets": ["whsec_"]}, "secrets"),
        ("acme", {"secrets": [], "more": 1}, "more"),
        ("%2Eacme", {"secrets": []}, "name"),
    ],
)
async def test_invalid_secrets_are_refused_and_change_nothing(
    http: httpx.AsyncClient, path: str, payload: Json, field: str
) -> None:
    answer = await http.put(f"/secrets/{path}", json=payload)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert (await deliver(http)).status_code == 204


async def test_killed_endpoint_has_its_secrets_attempts_and_faults(
    endpoint: Simulator, http: httpx.AsyncClient
) -> None:
    await deliver(http)
    await put_faults(http, seed=3)
    before = await received(http)
    assert endpoint.end(signal.SIGKILL) == -signal.SIGKILL
    endpoint.start()
    async with endpoint.client() as restarted:
        assert await received(restarted) == before
        assert (await restarted.get("/faults")).json()["seed"] == 3
        assert (await deliver(restarted)).status_code == 204


@pytest.mark.parametrize(
    ("fault", "status"),
    [("error_rate", 500), ("gone_rate", 410), ("reject_rate", 400), ("throttle_rate", 429), ("redirect", 302)],
)
async def test_fault_answers_whatever_the_signature_and_is_kept(
    http: httpx.AsyncClient, fault: str, status: int
) -> None:
    await put_faults(http, **{fault: True if fault == "redirect" else 1, "retry_after_seconds": 7})
    answers = [await deliver(http), await deliver(http, {})]
    assert [answer.status_code for answer in answers] == [status, status]
    assert answers[0].headers.get("retry-after") == ("7" if status == 429 else None)
    kept = [(attempt["fault"], attempt["status"], attempt["verified"]) for attempt in await received(http)]
    assert kept == [(fault, status, True), (fault, status, False)]


async def test_sender_that_follows_a_redirect_is_seen(http: httpx.AsyncClient) -> None:
    await put_faults(http, redirect=True)
    http.follow_redirects = True
    await deliver(http)
    assert [attempt["reason"] for attempt in await received(http)] == [None, "Followed a redirect"]


async def test_invalid_fault_names_the_switch(http: httpx.AsyncClient) -> None:
    answer = await http.put("/faults", json={"retry_after_seconds": 1.5})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "retry_after_seconds")


async def test_same_seed_fails_the_same_attempts(http: httpx.AsyncClient) -> None:
    async def run(seed: int, **switches: object) -> list[int]:
        await put_faults(http, seed=seed, error_rate=0.5, **switches)
        return [(await deliver(http)).status_code for _ in range(20)]

    first = await run(7)
    assert set(first) == {204, 500}
    assert await run(7) == first
    assert await run(8) != first
    with_more = await run(7, gone_rate=0.5)
    assert [status == 500 for status in with_more] == [status == 500 for status in first]


async def test_lost_answer_closes_the_connection_though_the_delivery_was_verified(http: httpx.AsyncClient) -> None:
    await put_faults(http, answer_lost_rate=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await deliver(http)
    (attempt,) = await received(http)
    assert (attempt["fault"], attempt["status"], attempt["verified"]) == ("answer_lost_rate", None, True)


async def test_hanging_endpoint_keeps_the_attempt_as_never_answered(http: httpx.AsyncClient) -> None:
    await put_faults(http, hang=True)
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/webhooks/acme", content=BODY, headers=signed(), timeout=0.1)
    assert (await http.get("/readyz")).status_code == 200
    assert [(attempt["fault"], attempt["status"]) for attempt in await received(http)] == [("hang", None)]


async def test_attempt_whose_sender_gave_up_is_kept_as_never_answered(http: httpx.AsyncClient) -> None:
    await put_faults(http, latency_seconds=0.2)
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/webhooks/acme", content=BODY, headers=signed(), timeout=0.1)
    await deliver(http)  # is answered later than the first would have been
    assert [(attempt["verified"], attempt["status"]) for attempt in await received(http)] == [(True, None), (True, 204)]


async def test_endpoint_whose_clock_is_wrong_takes_the_time_it_believes_in(http: httpx.AsyncClient) -> None:
    await put_faults(http, clock_skew_seconds=3600.5)
    assert (await deliver(http)).status_code == 401
    assert (await deliver(http, signed(age_seconds=-3600))).status_code == 204
    assert (await deliver(http, signed(age_seconds=-3600, secret=OTHER_SECRET))).status_code == 401
    reasons = [attempt["reason"] for attempt in await received(http)]
    assert reasons == ["Message timestamp too old", None, "No matching signature found"]


async def test_slow_body_follows_a_prompt_status(http: httpx.AsyncClient) -> None:
    await put_faults(http, slow_body=True)
    async with http.stream("POST", "/webhooks/acme", content=BODY, headers=signed(), timeout=0.3) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            await answer.aread()


async def test_sigterm_ends_an_endpoint_whose_request_hangs(endpoint: Simulator, http: httpx.AsyncClient) -> None:
    await put_faults(http, hang=True)
    hanging = asyncio.create_task(deliver(http))
    await until(lambda: received(http), bool)
    assert await asyncio.to_thread(endpoint.end) == 0
    await asyncio.wait([hanging])
    endpoint.start()
