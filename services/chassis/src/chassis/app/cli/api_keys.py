"""`orders api-keys …`: an operator makes, registers, lists and revokes the keys of clients. The keys cannot be changed
over HTTP.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from chassis import config
from chassis.app.cli.operator import Options, audit, in_transaction, list_lines
from chassis.auth import key_administration
from chassis.auth.api_keys import new_key, peppers_of, prefix_of
from chassis.config.settings import PrincipalName, ServiceSettings
from chassis.errors import HoldfastError
from chassis.pooling import Session

Scopes = Annotated[list[str], typer.Option("--scope", help="A permission of the key. Repeatable.")]

_PRINCIPAL: TypeAdapter[str] = TypeAdapter(PrincipalName)


# The linter counts this function as complex, because it contains one function for each command.
def api_key_commands(settings_type: type[ServiceSettings]) -> typer.Typer:  # noqa: C901
    """The `api-keys` commands of one service. All except `list` connect as the database role that owns the schema."""
    app = typer.Typer(help="Make, list and revoke the API keys of clients.", no_args_is_help=True)

    def run[T](options: Options, use: Callable[[Session], Awaitable[T]], *, as_owner: bool = True) -> T:
        settings = config.load_database(settings_type, options or ())
        return asyncio.run(in_transaction(settings.as_owner() if as_owner else settings, use))

    def peppers(options: Options) -> dict[str, bytes]:
        return peppers_of(config.load_auth(settings_type, options or ()))

    @app.command()
    def create(
        principal: Annotated[str, typer.Argument(help="The client that gets the key, such as acme.")],
        scopes: Scopes,
        days: Annotated[
            int | None, typer.Option("--expires-in-days", min=1, max=3650, help="By default the key does not expire.")
        ] = None,
        options: Options = None,
    ) -> None:
        """Make a key and print it. The key cannot be printed again."""
        _check(settings_type, [principal], scopes)
        key = new_key()
        add = partial(
            key_administration.add_key, key=key, principal=principal, scopes=scopes, peppers=peppers(options), days=days
        )
        if not run(options, add):
            raise HoldfastError("another key has the same prefix, which is a rare coincidence: try again")
        audit("api_key_created", prefix=prefix_of(key), principal=principal, scopes=sorted(scopes), days=days)
        typer.echo(key)

    @app.command()
    def register(folder: Path, scopes: Scopes, options: Options = None) -> None:
        """Register the keys in FOLDER. Each file contains one key, and the name of the file is the principal.

        Use this command for keys that another service or the installation's scripts made. The command is safe to
        repeat: a key that is registered already gets these scopes, and a new hash with the newest of `auth.peppers`.
        """
        keys = _read_keys(folder)
        _check(settings_type, list(keys), scopes)
        found = peppers(options)

        async def register_all(session: Session) -> dict[str, str]:
            return {
                principal: await key_administration.register_key(
                    session, key, principal=principal, scopes=scopes, peppers=found
                )
                for principal, key in keys.items()
            }

        for principal, outcome in run(options, register_all).items():
            prefix = prefix_of(keys[principal])
            audit("api_key_registered", prefix=prefix, principal=principal, scopes=sorted(scopes), outcome=outcome)

    @app.command("list")
    def list_keys(options: Options = None) -> None:
        """List all keys, the oldest first, including revoked keys. The secret part of a key is never printed."""
        list_lines(map(_line, run(options, key_administration.list_keys, as_owner=False)), what="keys")

    @app.command()
    def revoke(prefix: str, options: Options = None) -> None:
        """Revoke the key with this prefix. Every process refuses the key within seconds."""
        found = run(options, partial(key_administration.revoke_key, prefix=prefix))
        if found is None:
            raise HoldfastError(f"there is no key {prefix}")
        principal, since = found
        audit("api_key_revoked", prefix=prefix, principal=principal, since=since.isoformat(timespec="seconds"))

    return app


def _line(key: key_administration.ListedKey) -> str:
    ends = f"expires {key.expires_at:%Y-%m-%d}" if key.expires_at else "does not expire"
    state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M:%S}" if key.revoked_at else ends
    made = f"made {key.created_at:%Y-%m-%d}, pepper {key.pepper}"
    return f"{key.prefix}  {key.principal}  {','.join(key.scopes)}  {made}  {state}"


def _check(settings_type: type[ServiceSettings], principals: Sequence[str], scopes: Sequence[str]) -> None:
    """Raise `HoldfastError` for an invalid name of a principal, or for a scope that the service does not have."""
    for principal in principals:
        try:
            _PRINCIPAL.validate_python(principal)
        except ValidationError:
            raise HoldfastError(
                f"{principal!r} is not a valid principal: up to 63 of a-z, 0-9, . _ and -, the first a letter or digit"
            ) from None
    if unknown := sorted(set(scopes) - settings_type.scopes):
        there_are = ", ".join(sorted(settings_type.scopes)) or "none"
        raise HoldfastError(f"{settings_type.service_name} has no scope {', '.join(unknown)}; there are: {there_are}")


def _read_keys(folder: Path) -> dict[str, str]:
    """The key of each principal. Files whose names start with a dot are skipped, because Kubernetes puts such files
    into a mounted folder.
    """
    try:
        files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        keys = {path.name: path.read_text("ascii").strip() for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise HoldfastError(f"{folder}: the keys cannot be read: {type(error).__name__}") from error
    for principal, key in keys.items():
        try:
            prefix_of(key)
        except HoldfastError as error:
            raise HoldfastError(f"{folder / principal}: {error}") from None
    return keys
