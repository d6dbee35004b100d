"""The secrets of each webhook name, in a folder of files, and what they verify."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks.webhooks import EmptyWebhookSecretError

PREFIX = "whsec_"


class Secrets:
    """One file per name, with its secrets one a line: several while the sender rotates them."""

    def __init__(self, folder: Path) -> None:
        """Reads all files; one that cannot be read, or holds what is no secret, ends the process with one line."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = [path for path in folder.iterdir() if not path.name.startswith(".")]
            self._by_name = {path.name: checked(path.read_text().split()) for path in files}
        except (OSError, ValueError) as error:
            sys.exit(f"cannot read the secrets in {folder}: {getattr(error, 'strerror', None) or error}")

    def of(self, name: str) -> Sequence[str]:
        return self._by_name.get(name, [])

    def put(self, name: str, secrets: Sequence[str]) -> None:
        """Replace those of `name`, in the file too. ValueError when one is no secret; then nothing changes."""
        secrets = checked(secrets)
        draft = self._folder / f".{name}"
        draft.touch(mode=0o600)
        draft.write_text("\n".join(secrets))
        draft.replace(self._folder / name)
        self._by_name[name] = secrets


def checked(secrets: Sequence[str]) -> Sequence[str]:
    """The secrets; ValueError, which does not repeat them, when one is not `whsec_` and base64."""
    for secret in secrets:
        try:
            Webhook(secret)
            usable = secret.startswith(PREFIX)
        except (ValueError, EmptyWebhookSecretError):
            usable = False
        if not usable:
            raise ValueError(f"a secret must be {PREFIX} followed by base64")
    return secrets


def refusal(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, *, clock_skew_seconds: float
) -> str | None:
    """None when the body was signed in time with one of the secrets, and else why not.

    `headers` in lower case; `clock_skew_seconds` is how far the verifier's clock is ahead.
    """
    reason = "no secret is set"
    for secret in secrets:
        try:
            SkewedWebhook(secret, timedelta(seconds=clock_skew_seconds)).verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as error:
            reason = str(error)
        except ValueError:  # the package lets through what its parsing of signature and body raises
            reason = "Malformed signature or body"
        else:
            return None
    return reason


class SkewedWebhook(Webhook):
    """The package's verification as a machine does it whose clock is wrong.

    The package reads the true clock. Hence the timestamp is moved the other way for its check of the time, and
    back for the signature, which covers what was sent.
    """

    def __init__(self, secret: str, skew: timedelta) -> None:
        super().__init__(secret)
        self._skew = skew

    def verify(self, data: bytes | str, headers: dict[str, str], *, json_parse: bool = True) -> object:
        try:
            moved = str(float(headers["webhook-timestamp"]) - self._skew.total_seconds())
        except (KeyError, ValueError):
            moved = headers.get("webhook-timestamp", "")  # for the package to refuse
        return super().verify(data, headers | {"webhook-timestamp": moved}, json_parse=json_parse)

    def sign(self, msg_id: str, timestamp: datetime, data: str) -> str:
        return super().sign(msg_id, timestamp + self._skew, data)
