"""`python -m holdfast_local.compose_secrets`: what infra/compose.yaml mounts from .holdfast/compose, generated once.

A platform in containers is an installation of its own, with secrets of its own. Containers run under accounts that do
not exist on this machine, so everyone may read the files and the folders of the processes; that nobody else reaches
them is up to the folder around them, which has mode 0700.
"""

import json
from pathlib import Path
from secrets import token_urlsafe

from holdfast_local.installation import database_name
from holdfast_local.secrets import SERVICES, Secrets, load_or_create
from holdfast_local.settings import PROJECT


def make_secrets(folder: Path) -> None:
    """Generate what is missing, write what follows from it, and let containers read it."""
    secrets = load_or_create(folder)
    _write_postgres(secrets)
    _write(secrets.of("valkey") / "password", secrets.valkey_password)
    _write(secrets.of("valkey") / "valkey.conf", f"requirepass {secrets.valkey_password}\n")
    _write(secrets.of("oracle") / "sources.toml", _sources(secrets))
    grafana = secrets.of("grafana") / "admin-password"
    if not grafana.exists():
        _write(grafana, token_urlsafe(24))
    folder.chmod(0o700)
    for process in folder.iterdir():
        process.chmod(0o755)
        for file in process.iterdir():
            file.chmod(0o444)


def _write_postgres(secrets: Secrets) -> None:
    """The superuser's password, and those of both roles of each database, as create-databases.sh looks for them."""
    folder = secrets.of("postgres")
    _write(folder / "postgres_password", secrets.postgres_password)
    for service in SERVICES:
        _write(folder / f"{database_name(service)}_owner", secrets.owner_passwords[service])
        _write(folder / f"{database_name(service)}_app", secrets.runtime_passwords[service])


def _sources(secrets: Secrets) -> str:
    """Where the oracle asks, as TOML; its strings are written as JSON's."""
    values = {
        "provider_url": "http://payment-provider:8101",
        "mailbox_url": "http://mailbox:8102",
        "customer_url": "http://customer-endpoint:8103",
    }
    for service in SERVICES:
        name, password = database_name(service), secrets.runtime_passwords[service]
        values[f"{name}_dsn"] = f"postgresql://{name}_app:{password}@postgres:5432/{name}"
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _write(path: Path, value: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)  # the one of an earlier call cannot be written to
    path.write_text(value)


if __name__ == "__main__":
    make_secrets(PROJECT / ".holdfast" / "compose")
