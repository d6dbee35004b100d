"""`orders config …`: an operator prints the settings of a service, and the layer (such as a file or the environment)
that each setting came from.
"""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from chassis import config
from chassis.app.cli.operator import Options
from chassis.config.settings import Declaration, ServiceSettings
from chassis.pooling.budget import service_budget


def config_commands(settings_type: type[ServiceSettings]) -> typer.Typer:
    """The `config` commands of one service."""
    app = typer.Typer(help="Print the configuration.", no_args_is_help=True)

    @app.callback()
    def config_group() -> None:
        """Print the configuration."""

    @app.command()
    def explain(
        options: Options = None,
        *,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, keyed by setting.")] = False,
    ) -> None:
        """Print every setting, the layer that its value came from, and the layers whose values are overridden."""
        explained = config.explain(settings_type, options or ())
        if as_json:
            typer.echo(json.dumps({one.name: _as_json(one) for one in explained}, indent=2))
            return
        for setting in explained:
            shadowed = f" (shadows: {', '.join(setting.shadowed)})" if setting.shadowed else ""
            flag = f"  {_life(setting.flag)}" if setting.flag else ""
            typer.echo(f"{setting.name} = {setting.value}  [{setting.layer}]{shadowed}{flag}")
        settings = config.load(settings_type, options or ())
        for dependency, needed in settings.call_sums.items():
            rate = settings.rate_limit.edges.get(settings.service_name, {}).get(dependency)
            admitted = f" (admitted: {rate:g})" if rate else ""
            typer.echo(f"# calls to {dependency} per second, at most: {needed}{admitted}")
        budget = service_budget(settings.service_name, settings.database)
        typer.echo(f"# connections to the database, at most: {budget} ({budget.total} in all)")

    return app


def _as_json(setting: config.Explained) -> dict[str, object]:
    found: dict[str, object] = {"value": setting.value, "layer": setting.layer, "shadowed": setting.shadowed}
    if setting.flag:
        found["flag"] = {"owner": setting.flag.owner, "until": setting.flag.until.isoformat()}
    return found


def _life(flag: Declaration) -> str:
    ends = "EXPIRED after" if flag.is_expired(datetime.now(UTC).date()) else "until"
    return f"(a flag of {flag.owner}, {ends} {flag.until})"
