"""Webhooks: authentic, unchanged, new; checked against the published vectors and the senders' own packages."""

import base64
import hmac
from collections.abc import Callable
from datetime import UTC, datetime

import orjson
import pytest
from chassis.errors import InvalidSignature
from chassis.webhooks import (
    VERIFIERS,
    AttemptAnswer,
    DeliveryDecision,
    VerifiedWebhook,
    decide_delivery,
    new_secret,
    sign,
    signing_key,
    verify,
    verify_github,
    verify_stripe,
)
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from stripe import WebhookSignature

# The vector that the Standard Webhooks libraries share.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
NOW = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

OTHER_SECRET = "whsec_" + base64.b64encode(b"another key of at least 24 bytes").decode()
EVENT = b'{"id": "evt_1", "object": "event"}'
STRIPE_SECRET = "whsec_a-stripe-secret-is-used-as-it-stands"

type Pairs = list[tuple[str, str]]


def headers(*, webhook_id: str = ID, timestamp: str = str(NOW), signature: str = SIGNATURE) -> Pairs:
    return [("Webhook-Id", webhook_id), ("Webhook-Timestamp", timestamp), ("Webhook-Signature", signature)]


def stripe_headers(body: bytes) -> Pairs:
    """What Stripe's own package sends along with this body."""
    signature = WebhookSignature.generate_signature_header(body.decode(), STRIPE_SECRET, timestamp=NOW)
    return [("Stripe-Signature", signature)]


def without(pairs: Pairs, name: str) -> Pairs:
    return [pair for pair in pairs if pair[0].lower() != name]


def test_the_published_vector_is_verified_and_reproduced() -> None:
    assert verify(headers(), BODY, [SECRET], now=NOW) == VerifiedWebhook(ID, NOW)
    assert sign(SECRET, ID, NOW, BODY) == {
        "webhook-id": ID,
        "webhook-timestamp": str(NOW),
        "webhook-signature": SIGNATURE,
    }


@given(body=st.text().map(str.encode))
def test_what_the_published_package_signs_is_accepted_and_it_accepts_what_we_sign(body: bytes) -> None:
    now = int(datetime.now(UTC).timestamp())
    package = Webhook(OTHER_SECRET)
    theirs = package.sign(ID, datetime.fromtimestamp(now, UTC), body.decode())
    verify(headers(timestamp=str(now), signature=theirs), body, [OTHER_SECRET], now=now)
    package.verify(body, sign(OTHER_SECRET, ID, now, body), json_parse=False)


def test_what_the_stripe_package_signs_is_accepted() -> None:
    verified = verify_stripe(stripe_headers(EVENT), EVENT, [STRIPE_SECRET], now=NOW)
    assert verified == VerifiedWebhook("evt_1", NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": 1}', b'{"id": ""}', b'{"id": "a.b"}', b"not json"])
def test_a_stripe_event_without_an_id_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidSignature, match="id"):
        verify_stripe(stripe_headers(body), body, [STRIPE_SECRET], now=NOW)


def test_githubs_published_example_is_verified() -> None:
    """The values of "Testing the webhook payload validation" in GitHub's documentation."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    pairs = [("X-Hub-Signature-256", signature), ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")]
    verified = verify_github(pairs, b"Hello, World!", ["It's a Secret to Everybody"], now=NOW)
    assert verified == VerifiedWebhook("72d3162e-cc78-11e3-81ab-4c9367dc0958", None)
    with pytest.raises(InvalidSignature, match="delivery is missing"):
        verify_github(pairs[:1], b"Hello, World!", ["It's a Secret to Everybody"], now=NOW)


@pytest.mark.parametrize("position", range(len(BODY)))
def test_one_changed_byte_is_refused(position: int) -> None:
    changed = bytes(byte ^ 1 if i == position else byte for i, byte in enumerate(BODY))
    with pytest.raises(InvalidSignature, match="no signature matches"):
        verify(headers(), changed, [SECRET], now=NOW)


def test_a_body_that_was_parsed_and_written_again_no_longer_matches() -> None:
    with pytest.raises(InvalidSignature, match="no signature matches"):
        verify(headers(), orjson.dumps(orjson.loads(BODY)), [SECRET], now=NOW)


@pytest.mark.parametrize("change", [{"webhook_id": "msg_other"}, {"timestamp": str(NOW + 1)}])
def test_id_and_time_are_signed_as_well(change: dict[str, str]) -> None:
    with pytest.raises(InvalidSignature, match="no signature matches"):
        verify(headers(**change), BODY, [SECRET], now=NOW)


@pytest.mark.parametrize(("offset", "accepted"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
@pytest.mark.parametrize("provider", ["standard", "stripe"])
def test_the_time_may_differ_by_five_minutes_on_either_side(provider: str, offset: int, *, accepted: bool) -> None:
    pairs, secret = {
        "standard": (list(sign(SECRET, ID, NOW, EVENT).items()), SECRET),
        "stripe": (stripe_headers(EVENT), STRIPE_SECRET),
    }[provider]

    def check() -> VerifiedWebhook:
        return VERIFIERS[provider](pairs, EVENT, [secret], now=NOW - offset)

    if accepted:
        assert check().timestamp == NOW
    else:
        with pytest.raises(InvalidSignature, match="future" if offset > 0 else "too old"):
            check()


def test_during_a_rotation_either_secret_is_enough_on_either_side() -> None:
    ours = sign(SECRET, ID, NOW, BODY)["webhook-signature"]
    new = sign(OTHER_SECRET, ID, NOW, BODY)["webhook-signature"]
    verify(headers(signature=new), BODY, [SECRET, OTHER_SECRET], now=NOW)
    verify(headers(signature=ours), BODY, [OTHER_SECRET, SECRET], now=NOW)
    verify(headers(signature=f"{new} {ours}"), BODY, [SECRET], now=NOW)
    with pytest.raises(InvalidSignature):
        verify(headers(signature=ours), BODY, [OTHER_SECRET], now=NOW)


def test_a_rotated_stripe_secret_is_accepted_among_several_signatures() -> None:
    old, new = (
        WebhookSignature.generate_signature_header(EVENT.decode(), secret, timestamp=NOW).partition(",v1=")[2]
        for secret in ("old", "new")
    )
    verify_stripe([("stripe-signature", f"t={NOW},v1={old},v1={new},v0=ignored")], EVENT, ["new"], now=NOW)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        " ",
        "v1",
        "v1,",
        "v1,not base64!",
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE",  # its padding is gone
        "v1,\xff\xfe",
        "v1,ü€",
        SIGNATURE.replace("v1,", "v1a,"),
        SIGNATURE.replace("v1,", "v2,"),
        SIGNATURE.removeprefix("v1,"),
        SIGNATURE.replace("v1,", "v1,v1,"),
    ],
)
def test_a_malformed_signature_is_refused_and_never_an_error_of_ours(signature: str) -> None:
    with pytest.raises(InvalidSignature):
        verify(headers(signature=signature), BODY, [SECRET], now=NOW)


@pytest.mark.parametrize(
    "timestamp", ["", "now", "-1614265330", f"0{NOW}", f"{NOW}.0", f" {NOW}", f"{NOW}\n", "٣", "9" * 5000]
)
def test_a_malformed_time_is_refused(timestamp: str) -> None:
    with pytest.raises(InvalidSignature, match="not in Unix seconds"):
        verify(headers(timestamp=timestamp), BODY, [SECRET], now=NOW)


@pytest.mark.parametrize("webhook_id", ["", "with space", "with.stop", "é", "x" * 256, "line\n"])
def test_a_malformed_id_is_refused(webhook_id: str) -> None:
    with pytest.raises(InvalidSignature, match="the id is not"):
        verify(headers(webhook_id=webhook_id), BODY, [SECRET], now=NOW)
    with pytest.raises(ValueError, match="a webhook id is"):
        sign(SECRET, webhook_id, NOW, BODY)


def test_the_parts_of_the_signed_content_cannot_be_cut_in_another_place() -> None:
    """`a` + `1614265330` + `1614265331.x` signs the same bytes as `a.1614265330` + `1614265331` + `x`."""
    signature = sign(SECRET, "a", NOW, f"{NOW + 1}.x".encode())["webhook-signature"]
    with pytest.raises(InvalidSignature):
        verify(headers(webhook_id=f"a.{NOW}", timestamp=str(NOW + 1), signature=signature), b"x", [SECRET], now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_must_be_there_exactly_once(name: str) -> None:
    with pytest.raises(InvalidSignature, match=f"{name} is missing"):
        verify(without(headers(), name), BODY, [SECRET], now=NOW)
    twice = headers() + [pair for pair in headers() if pair[0].lower() == name]
    with pytest.raises(InvalidSignature, match=f"{name} occurs more than once"):
        verify(twice, BODY, [SECRET], now=NOW)


@pytest.mark.parametrize("header", ["", "t=", "v1=abc", f"t={NOW},t={NOW},v1=abc", "t=x,v1=abc", f"t={NOW}", "=,=,="])
def test_a_malformed_stripe_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidSignature):
        verify_stripe([("stripe-signature", header)], BODY, [STRIPE_SECRET], now=NOW)


@given(body=st.binary(max_size=200))
def test_bodies_are_bytes_and_need_not_be_text(body: bytes) -> None:
    pairs = list(sign(SECRET, ID, NOW, body).items())
    assert verify(pairs, body, [SECRET], now=NOW).id == ID


@pytest.mark.parametrize("verdict", [True, False])
def test_the_constant_time_comparison_alone_decides(monkeypatch: pytest.MonkeyPatch, *, verdict: bool) -> None:
    """A comparison that stops at the first wrong character tells a forger by its time how much was right."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return verdict

    monkeypatch.setattr("chassis.webhooks.hmac.compare_digest", compare)
    forged = headers(signature="v1,forged")
    if verdict:
        verify(forged, BODY, [SECRET], now=NOW)
    else:
        with pytest.raises(InvalidSignature):
            verify(headers(), BODY, [SECRET], now=NOW)
    assert compared
    assert all(isinstance(one, bytes) for pair in compared for one in pair)


def test_without_a_secret_nothing_is_accepted() -> None:
    with pytest.raises(InvalidSignature):
        verify(headers(), BODY, [], now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64!", "whsec_ü", SECRET[:-1]])
def test_a_secret_that_is_none_is_found_at_start_up_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="a webhook secret") as raised:
        signing_key(secret)
    assert len(secret) < 8 or secret not in str(raised.value)


@pytest.mark.parametrize("verifier", [verify_stripe, verify_github])
def test_an_empty_secret_is_never_a_key(verifier: Callable[..., VerifiedWebhook]) -> None:
    forged = hmac.digest(b"\0", BODY, "sha256").hex()
    pairs = [("stripe-signature", f"t={NOW},v1={forged}"), ("x-hub-signature-256", f"sha256={forged}")]
    with pytest.raises(ValueError, match="not empty"):
        verifier(pairs, BODY, [""], now=NOW)


def test_a_refusal_shows_neither_the_secret_nor_the_right_signature() -> None:
    with pytest.raises(InvalidSignature) as raised:
        verify(headers(signature="v1,AAAA"), BODY, [SECRET], now=NOW)
    assert SIGNATURE[3:] not in raised.value.message
    assert SECRET not in raised.value.message


# Sending

FAILED = AttemptAnswer(result="failed", status=500)


def after(answer: AttemptAnswer, *, attempt: int = 1, jitter: float = 0.0, draw: float = 0.5) -> DeliveryDecision:
    return decide_delivery(answer, attempt=attempt, schedule=(5, 300), jitter=jitter, random=lambda: draw)


def test_a_new_secret_signs_and_is_another_each_time() -> None:
    secret = new_secret()
    assert len(signing_key(secret)) == 32
    assert secret != new_secret()


@pytest.mark.parametrize("known", [SECRET, OTHER_SECRET])
def test_while_a_secret_is_rotated_receivers_with_either_accept(known: str) -> None:
    signed = sign(SECRET, ID, NOW, BODY, old_secrets=[OTHER_SECRET])
    assert verify(list(signed.items()), BODY, [known], now=NOW) == VerifiedWebhook(ID, NOW)


def test_each_failure_waits_as_the_schedule_says_and_the_one_after_it_is_the_last() -> None:
    assert [after(FAILED, attempt=n) for n in (1, 2, 3)] == [
        DeliveryDecision("pending", 5),
        DeliveryDecision("pending", 300),
        DeliveryDecision("dead"),
    ]


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_waits_vary_by_the_jitter_on_either_side(draw: float, seconds: float) -> None:
    assert after(FAILED, jitter=0.2, draw=draw).delay == pytest.approx(seconds)


@pytest.mark.parametrize(("asked", "seconds"), [(1.0, 5), (60.0, 60)])
def test_a_retry_after_only_lengthens_the_wait(asked: float, seconds: float) -> None:
    assert after(AttemptAnswer(result="failed", status=429, retry_after=asked)).delay == seconds


def test_only_delivered_delivers_and_only_gone_disables() -> None:
    assert after(AttemptAnswer(result="delivered", status=204)) == DeliveryDecision("delivered")
    assert after(AttemptAnswer(result="gone", status=410)) == DeliveryDecision("disabled")
    for result in ("failed", "timeout", "unreachable", "refused"):
        assert after(AttemptAnswer(result=result)).state == "pending"
