"""Makes one attempt to deliver a webhook. The request is signed, goes only to a public address, follows no redirect,
and has a time-out.
"""

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
_MAX_CONNECTIONS = 100  # the maximum of the setting `webhooks.concurrency`, so that no attempt waits for a connection


class WebhookSender:
    """Sends webhooks to customers. The composition root makes the sender inside the running event loop, and closes the
    sender after draining.

    `resolver` replaces the system's resolution of host names, for tests.
    """

    def __init__(self, settings: WebhookSettings, *, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._session = aiohttp.ClientSession(
            connector=MeasuredConnector(
                "customers",
                # Each delivery opens a new connection and resolves the name again. Deliveries to one customer are rare:
                # before the next delivery, the host may close the connection or change its address.
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
        """Make one attempt. Returns an `AttemptAnswer` for every behaviour of the customer's server, and raises no
        exception.
        """
        check_nothing_held("customers")
        headers = sign(secret, webhook_id, int(time.time()), body, old_secrets=old_secrets)
        destination: Destination | None = None
        try:
            destination = check_url(url, self._settings.egress)
            async with asyncio.timeout(self._settings.attempt_timeout):
                return await self._post(url, body, headers)
        except DestinationRefused as error:
            reason = destination.public_reason(error) if destination else error
            return AttemptAnswer(result="refused", reason=f"we cannot send there: {reason}")
        except aiohttp.ClientConnectorDNSError:
            return AttemptAnswer(result="unreachable", reason=f"we cannot send there: {NO_PUBLIC_ADDRESS}")
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            return AttemptAnswer(result="unreachable", reason=f"no connection ({type(error).__name__})")
        except TimeoutError:
            return AttemptAnswer(result="timeout", reason=f"no answer within {self._settings.attempt_timeout:g} s")
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: aiohttp cannot read the URL or answer
            return AttemptAnswer(result="failed", reason=f"no readable answer ({type(error).__name__})")

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> AttemptAnswer:
        """Send the request, and read only the status line and the headers of the answer. The answer's body is not
        needed, and it could be endless.
        """
        async with self._session.post(
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout),
        ) as response:
            return _answer_of(response)


def _answer_of(response: aiohttp.ClientResponse) -> AttemptAnswer:
    status = response.status
    if 200 <= status < 300:  # noqa: PLR2004  300 is the end of the 2xx range
        return AttemptAnswer(result="delivered", status=status)
    return AttemptAnswer(
        result="gone" if status == _GONE else "failed",
        status=status,
        reason=f"answered {status}",
        retry_after=parse_retry_after(response.headers.get("Retry-After"), now=time.time()),
    )
