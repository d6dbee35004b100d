"""Passwords, keys and tokens of one installation: generated once, kept in the state folder, one file each.

Every process gets a folder with exactly the settings it may know (`<service>/database__password`). The keys of clients
are in `clients/`, for curl and the demo; a service's database learns their hashes, under a pepper of its own. The
folder `<service>-migrate` is that of whoever owns the schema: it migrates, and makes and revokes keys. Folders have
mode 0700, files 0600.
"""

import base64
import json
import os
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CLIENTS = ("acme", "globex", "initech")
"""The three demo clients; each uses the same key with orders and notifications."""
SERVICES = ("webhook-ingest", "payments", "orders", "notifications")
SCOPES = {"orders": ("orders:read", "orders:write"), "notifications": ("mails:read", "webhooks:manage")}
"""What clients may do, by the services that know their keys: payments is called by a service, and webhook-ingest by
whoever signs.
"""


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Everything secret, and where it lies. `repr` shows only the folder."""

    folder: Path
    postgres_password: str = field(repr=False)
    valkey_password: str = field(repr=False)
    management_token: str = field(repr=False)
    log_debug_key: str = field(repr=False)
    provider_api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    payments_token_secret: str = field(repr=False)
    client_keys: dict[str, str] = field(repr=False)
    owner_passwords: dict[str, str] = field(repr=False)
    runtime_passwords: dict[str, str] = field(repr=False)

    def of(self, process: str) -> Path:
        """The folder of one service, of its migrations (`orders-migrate`) or of a simulator."""
        return self.folder / process


def load_or_create(folder: Path, *, redis_password: str | None = None) -> Secrets:
    """The installation's secrets; whatever is missing is generated, whatever is derived is written anew.

    `redis_password` is that of a server that is not ours; none: services get the password of our own Valkey.
    """
    found = Secrets(
        folder=folder,
        postgres_password=_keep(folder / "platform" / "postgres_password"),
        valkey_password=_keep(folder / "platform" / "valkey_password"),
        management_token=_keep(folder / "operator" / "management_token"),
        log_debug_key=_keep(folder / "platform" / "log_debug_key"),
        provider_api_key=_keep(folder / "payment-provider" / "api_key"),
        webhook_secret=_keep(folder / "payment-provider" / "webhook_secret", new=_new_webhook_secret),
        payments_token_secret=_keep(folder / "orders" / "payments__token_secret"),
        client_keys={client: _keep(folder / "clients" / client, new=_new_client_key) for client in CLIENTS},
        owner_passwords={s: _keep(folder / f"{s}-migrate" / "database__migration_password") for s in SERVICES},
        runtime_passwords={s: _keep(folder / s / "database__password") for s in SERVICES},
    )
    _derive(found, found.valkey_password if redis_password is None else redis_password)
    return found


def _derive(found: Secrets, redis_password: str) -> None:
    """Write what follows from the generated values into the folders of those who need it."""
    for service in SCOPES:
        peppers = _keep(found.of(service) / "auth__peppers", new=_new_peppers)
        _write(found.of(f"{service}-migrate") / "auth__peppers", peppers)
    _write(found.of("payments") / "auth__service_secrets", json.dumps({"orders": [found.payments_token_secret]}))
    for service in SERVICES:
        _write_or_remove(found.of(service) / "redis__password", redis_password)
        _write(found.of(service) / "management__token", found.management_token)
        _write(found.of(service) / "log__debug_key", found.log_debug_key)
        _write(found.of(f"{service}-migrate") / "database__password", found.runtime_passwords[service])
    _write(found.of("payments") / "provider__api_key", found.provider_api_key)
    _write(found.of("webhook-ingest") / "webhook_secrets__payment_provider", json.dumps([found.webhook_secret]))


def _keep(path: Path, *, new: Callable[[], str] = lambda: secrets.token_hex(32)) -> str:
    """The value in the file; 256 random bits are written to it first if there is none."""
    if path.exists():
        return path.read_text()
    value = new()
    _write(path, value)
    return value


def _write(path: Path, value: str) -> None:
    """Replace the file in one step, so that an interrupted start never leaves half a secret."""
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value)
    draft.replace(path)


def _write_or_remove(path: Path, value: str) -> None:
    """A setting that has no value has no file: an empty password is none."""
    if value:
        _write(path, value)
    else:
        path.unlink(missing_ok=True)


def _new_webhook_secret() -> str:
    """Standard Webhooks' format: the prefix says what it is, the rest is the key in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _new_peppers() -> str:
    return json.dumps([secrets.token_hex(32)])


def _new_client_key() -> str:
    """As `orders api-keys create` makes it: a public prefix, and 43 letters and digits, which are 256 random bits."""
    prefix = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(12))
    return f"hf_{prefix}_{''.join(secrets.choice(string.ascii_letters + string.digits) for _ in range(43))}"
