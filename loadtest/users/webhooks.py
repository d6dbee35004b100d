"""Webhook senders: the payment provider and those who would like to be it.

The events are of a type that nobody handles, so that no order depends on them: they are verified, stored and answered
as all others, and their job finds nothing to publish.
"""

import base64
import hmac
import json
import time
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from users.client import Client, body_of

WEBHOOKS = "/v1/webhooks/"
_PATH = f"{WEBHOOKS}payment-provider"
_REPEATED_SHARE, _FORGED_SHARE, _STALE_SHARE = 0.2, 0.05, 0.02
_STALE_SECONDS = 3600  # far beyond the tolerance of five minutes


class WebhookSender(Client):
    def __init__(self, environment: Any) -> None:
        self.host = environment.holdfast.ingest
        super().__init__(environment)

    def run_errand(self) -> None:
        kind = self.rng.random()
        if kind < _FORGED_SHARE:
            self._send(f"evt_{uuid4().hex}", "forged", secret=b"a guess")
        elif kind < _FORGED_SHARE + _STALE_SHARE:
            self._send(f"evt_{uuid4().hex}", "replayed", age=_STALE_SECONDS)
        else:
            event_id = f"evt_{uuid4().hex}"
            self._send(event_id, "")
            if kind > 1 - _REPEATED_SHARE:
                self._send(event_id, "again")

    def _send(self, event_id: str, what: str, *, secret: bytes = b"", age: int = 0) -> None:
        """A genuine one, the first time or again, is answered 200; any other 401, or 429 once there were many."""
        body = json.dumps({"id": event_id, "type": "load.sent", "data": {"reference": self.given.id}})
        sent_at = int(time.time()) - age
        signed = hmac.digest(secret or self.given.webhook_secret, f"{event_id}.{sent_at}.{body}".encode(), "sha256")
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }
        name = f"{_PATH} ({what})" if what else _PATH
        with self.client.request("POST", _PATH, name=name, data=body, headers=headers, catch_response=True) as answer:
            seconds = self.count_from_the_moment_meant(answer)
            if what in {"forged", "replayed"}:
                body_of(answer, (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS))
                return
            body_of(answer, (HTTPStatus.OK,))
            if seconds is not None:
                self.given.webhook_seconds.append(seconds)
