"""What a head may say: one version, one of each header that decides, and a body that this platform takes."""

from api_keys import caller
from attacked_shop import MANAGEMENT_TOKEN, Shop
from raw_http import RawConnection, exchange

HIDDEN = b"GET /open HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
KEY = f"Authorization: {caller('acme')['Authorization']}\r\n".encode()
TOKEN = f"Authorization: Bearer {MANAGEMENT_TOKEN}\r\n".encode()
JSON = b"Host: shop\r\nContent-Type: application/json\r\nX-Request-Timeout-Ms: 6000\r\n"
BODY = b'{"a": "b"}'


async def test_only_http_1_0_and_1_1_are_spoken(port: int, path: bytes) -> None:
    for version in (b"", b" HTTP/0.9", b" HTTP/2.0", b" HTTP/1.2", b" HTTP/3.0", b" http/1.1"):
        (answer,) = await exchange(port, b"GET " + path + version + b"\r\nHost: shop\r\n\r\n" + HIDDEN)
        assert (answer.status, b"MALFORMED_REQUEST" in answer.body) == (400, True), version


async def test_the_preface_of_http_2_is_refused(port: int) -> None:
    (answer,) = await exchange(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN)
    assert answer.status == 400


async def test_http_1_0_needs_no_host(port: int, path: bytes) -> None:
    (answer,) = await exchange(port, b"GET " + path + b" HTTP/1.0\r\n\r\n")
    assert answer.status == 200


TWICE = [
    b"Host: shop\r\nHost: other",
    b"Host: shop\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b",
    b"Host: shop\r\nIdempotency-Key: a\r\nidempotency-key: a",
    b"Host: shop\r\nContent-Type: application/json\r\nContent-Type: text/plain",
    b"Host: shop\r\nX-Request-Timeout-Ms: 1\r\nX-Request-Timeout-Ms: 9",
]


async def test_a_header_that_decides_is_there_once(port: int, path: bytes) -> None:
    for fields in TWICE:
        (answer,) = await exchange(port, b"GET " + path + b" HTTP/1.1\r\n" + fields + b"\r\n\r\n" + HIDDEN)
        assert (answer.status, b"may occur only once" in answer.body) == (400, True), fields


async def test_a_second_idempotency_key_is_refused_and_one_is_taken(shop: Shop) -> None:
    head = b"POST /keyed HTTP/1.1\r\n" + JSON + KEY + b"Content-Length: 10\r\n"
    first = b"Idempotency-Key: first\r\n"
    right, wrong = await exchange(
        shop.public, head + first + b"\r\n" + BODY, head + first + b"Idempotency-Key: second\r\n\r\n" + BODY
    )
    assert (right.status, right.body) == (200, b'"first: 1"')
    assert wrong.status == 400
    assert b"idempotency-key" in wrong.body


async def test_a_length_above_the_limit_is_refused_before_the_body_arrives(shop: Shop) -> None:
    for length in (b"1001", b"99999999", b"18446744073709551615"):
        head = b"POST /count HTTP/1.1\r\n" + JSON + b"Content-Length: " + length + b"\r\n\r\n"
        (answer,) = await exchange(shop.public, head)
        assert (answer.status, b"PAYLOAD_TOO_LARGE" in answer.body) == (413, True)


async def test_such_a_length_is_refused_on_the_management_port_too(shop: Shop) -> None:
    head = b"PUT /log-levels HTTP/1.1\r\n" + JSON + TOKEN + b"Content-Length: 18446744073709551615\r\n\r\n"
    async with RawConnection.to(shop.management) as connection:
        await connection.send(head)
        answer = await connection.answer()
    assert answer is not None
    assert answer.status == 413


async def test_a_stranger_s_key_is_looked_at_before_his_length(shop: Shop) -> None:
    head = b"POST /mine HTTP/1.1\r\n" + JSON + b"Content-Length: 18446744073709551615\r\n\r\n"
    async with RawConnection.to(shop.public) as connection:
        await connection.send(head)
        answer = await connection.answer()
    assert answer is not None
    assert answer.status == 401


async def test_an_encoded_body_is_refused_with_the_reason(shop: Shop) -> None:
    fields = JSON + b"Content-Length: 10\r\nContent-Encoding: gzip\r\n"
    public, _ = await exchange(shop.public, b"POST /count HTTP/1.1\r\n" + fields + b"\r\n" + BODY, HIDDEN)
    management, _ = await exchange(
        shop.management, b"PUT /log-levels HTTP/1.1\r\n" + fields + TOKEN + b"\r\n" + BODY, HIDDEN
    )
    for answer in (public, management):
        assert answer.status == 415
        assert b"UNSUPPORTED_MEDIA_TYPE" in answer.body
        assert b"Content-Encoding" in answer.body


async def test_a_body_that_is_called_unencoded_is_taken(shop: Shop) -> None:
    fields = JSON + b"Content-Length: 10\r\nContent-Encoding: Identity\r\n\r\n"
    answer, _ = await exchange(shop.public, b"POST /count HTTP/1.1\r\n" + fields + BODY, HIDDEN)
    assert (answer.status, answer.body) == (200, b"1")


async def test_a_pipelined_request_has_nothing_of_the_one_before(shop: Shop) -> None:
    """Neither its deadline, which only shrinks, nor its caller."""
    impatient = b"GET /mine HTTP/1.1\r\nHost: shop\r\nX-Request-Timeout-Ms: 0\r\n\r\n"
    patient = b"GET /mine HTTP/1.1\r\nHost: shop\r\n" + KEY + b"\r\n"
    answers = await exchange(shop.public, impatient + patient + HIDDEN)
    assert [answer.status for answer in answers] == [504, 200, 200]
