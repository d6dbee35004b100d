"""Where to ask: four databases, the provider and the mailbox, from a file and the environment."""

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Self

STDIN = Path("-")
_PREFIX = "ORACLE_"


class NoVerdict(Exception):
    """The oracle cannot judge; the message says why, a line per reason, and holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Databases:
    """A DSN (`postgresql://user:password@host:port/database`) per database.

    The role may be the service's own run-time role: it needs SELECT, and every session is read-only.
    """

    orders_dsn: str = field(repr=False)
    payments_dsn: str = field(repr=False)
    notifications_dsn: str = field(repr=False)
    webhook_ingest_dsn: str = field(repr=False)

    @classmethod
    def load(cls, config: Path | None, environment: Mapping[str, str]) -> Self:
        """From the TOML file, whose keys are the fields' names (`-`: standard input), and over it from the variables
        `ORACLE_<FIELD>`. Secrets are not taken from the command line, where every user of the machine can read them.
        One file serves all: whoever asks the databases only leaves the URLs in it alone.

        Raises `NoVerdict` naming whatever is unreadable, unknown or missing.
        """
        known = [f.name for f in fields(Sources)]
        given = _read(config) if config else {}
        if unknown := sorted(set(given) - set(known)):
            raise NoVerdict(f"{config} has unknown keys: {', '.join(unknown)}; known are {', '.join(known)}")
        names = [f.name for f in fields(cls)]
        variables = {name: environment.get(_PREFIX + name.upper()) or given.get(name) for name in names}
        values = {name: value for name, value in variables.items() if value}
        needed = [f.name for f in fields(cls) if f.default is MISSING]
        if missing := [name for name in needed if not values.get(name)]:
            raise NoVerdict("\n".join(f"set {_PREFIX}{name.upper()}, or {name} in --config" for name in missing))
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources(Databases):
    """The databases, and the base URLs of what is not ours.

    Only `customer_url`, the simulated customer's endpoint, may be left out: real ones cannot be asked.
    """

    provider_url: str
    mailbox_url: str
    customer_url: str = ""


def _read(config: Path) -> dict[str, str]:
    try:
        text = sys.stdin.read() if config == STDIN else config.read_text("utf-8")
        return {name: str(value) for name, value in tomllib.loads(text).items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise NoVerdict(f"cannot read {config}: {error}") from error
