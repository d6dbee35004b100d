"""One attempt to deliver a webhook: signed, to a public address, without following redirects, within its time-out."""

import asyncio
import time

import aiohttp
from aiohttp.abc import AbstractResolver
from chassis.calls.ssrf import NO_PUBLIC_ADDRESS, Destination, DestinationRefused, check_url, guarded_socket
from chassis.pooling import check_nothing_held
from chassis.pooling.http_pool import MeasuredConnector
from chassis.retries import parse_retry_after
from chassis.webhooks import AttemptAnswer, sign

from notifications.settings import WebhookSettings

_GONE = 410
_MAX_CONNECTIONS = 100  # as many as webhooks.concurrency may be: the job runner decides, and nothing waits here


class WebhookSender:
    """Made in a composition root (inside the running loop) and closed after draining.

    `resolver` replaces the system's name resolution.
    """

    def __init__(self, settings: WebhookSettings, *, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=MeasuredConnector(
                "customers",
                # Nothing is kept from one delivery to the next, neither connection nor name: the customer's host may
                # have closed the one and changed the other, and few deliveries follow each other closely.
                force_close=True,
                use_dns_cache=False,
                limit=_MAX_CONNECTIONS,
                resolver=resolver,
                socket_factory=guarded_socket(settings.egress),
                happy_eyeballs_delay=None,
            ),
            headers={"User-Agent": "Holdfast-Webhooks/1", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self, url: str, body: bytes, *, webhook_id: str, secret: str, old_secrets: tuple[str, ...]
    ) -> AttemptAnswer:
        """Whatever comes of it is an answer: nothing is raised for what the customer's side does."""
        check_nothing_held("customers")
        headers = sign(secret, webhook_id, int(time.time()), body, old_secrets=old_secrets)
        destination: Destination | None = None
        try:
            destination = check_url(url, self._settings.egress)
            async with asyncio.timeout(self._settings.attempt_timeout):
                return await self._post(url, body, headers)
        except DestinationRefused as error:
            why = destination.public_reason(error) if destination else error
            return AttemptAnswer(result="refused", reason=f"we cannot send there: {why}")
        except aiohttp.ClientConnectorDNSError:
            return AttemptAnswer(result="unreachable", reason=f"we cannot send there: {NO_PUBLIC_ADDRESS}")
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            return AttemptAnswer(result="unreachable", reason=f"no connection ({type(error).__name__})")
        except TimeoutError:
            reason = f"no answer within {self._settings.attempt_timeout:g} s"
            return AttemptAnswer(result="timeout", reason=reason)
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: a URL or an answer that aiohttp cannot read
            return AttemptAnswer(result="failed", reason=f"no readable answer ({type(error).__name__})")

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> AttemptAnswer:
        """The status line is the whole answer. The body is not read: it could be endless, and is of no use to us."""
        async with self._session.post(
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout),
        ) as response:
            return _judge(response)


def _judge(response: aiohttp.ClientResponse) -> AttemptAnswer:
    status = response.status
    if 200 <= status < 300:  # noqa: PLR2004  the 2xx range
        return AttemptAnswer(result="delivered", status=status)
    return AttemptAnswer(
        result="gone" if status == _GONE else "failed",
        status=status,
        reason=f"answered {status}",
        retry_after=parse_retry_after(response.headers.get("Retry-After"), now=time.time()),
    )
