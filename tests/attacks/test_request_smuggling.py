"""Where a request ends is said once: bytes that two parsers could cut differently end the connection."""

from raw_http import exchange

HIDDEN = b"GET /open HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
CHUNKS = b"0\r\n\r\n"


FIELDS = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 5 5",
    b"Content-Length : 5",
    b"Content-Length: 18446744073709551616",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"X: 1\r\n Transfer-Encoding: chunked",
    b"X: 1\nTransfer-Encoding: chunked",
    b"X: 1\x00",
]


async def test_a_request_whose_end_is_not_plain_is_refused_and_the_last_of_its_connection(
    port: int, path: bytes
) -> None:
    for fields in FIELDS:
        head = b"POST " + path + b" HTTP/1.1\r\nHost: shop\r\n" + fields + b"\r\n\r\n"
        (answer,) = await exchange(port, head + CHUNKS + HIDDEN)
        assert (answer.status, b"MALFORMED_REQUEST" in answer.body) == (400, True), fields


WRONG_CHUNKS = [
    b"5\r\nabcde0\r\n\r\n",
    b"5\r\nabcdefgh\r\n0\r\n\r\n",
    b"-5\r\nabcde\r\n0\r\n\r\n",
    b"0x5\r\nabcde\r\n0\r\n\r\n",
    b"5\nabcde\n0\n\n",
    b"5;\x00\r\nabcde\r\n0\r\n\r\n",
    b"10000000000000005\r\nabcde\r\n0\r\n\r\n",
]


async def test_a_chunk_that_is_not_what_it_says_ends_the_connection(port: int) -> None:
    for chunks in WRONG_CHUNKS:
        head = b"POST /mine HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"
        answers = await exchange(port, head + chunks + HIDDEN)
        assert [answer.status for answer in answers] == [400], chunks


async def test_what_was_sent_before_an_unreadable_request_is_answered_before_it_is_refused(
    port: int, path: bytes
) -> None:
    request = b"GET " + path + b" HTTP/1.1\r\nHost: shop\r\n\r\n"
    unreadable = [b"NONE\r\n\r\n", b"POST " + path + b" HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\nx"]
    for last in unreadable:
        answers = await exchange(port, 3 * request + last + HIDDEN)
        assert [answer.status for answer in answers] == [200, 200, 200, 400]
