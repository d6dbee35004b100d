"""`orders config …`: an operator prints the settings of a service, and the layer that each setting came from."""

import json
from typing import Annotated

import typer

from chassis import config
from chassis.app.cli.operator import Options
from chassis.config.settings import ServiceSettings
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
            found = {one.name: {"value": one.value, "layer": one.layer, "shadowed": one.shadowed} for one in explained}
            typer.echo(json.dumps(found, indent=2))
            return
        for setting in explained:
            shadowed = f" (shadows: {', '.join(setting.shadowed)})" if setting.shadowed else ""
            typer.echo(f"{setting.name} = {setting.value}  [{setting.layer}]{shadowed}")
        budget = service_budget(settings_type.service_name, config.load(settings_type, options or ()).database)
        typer.echo(f"# connections to the database, at most: {budget} ({budget.total} in all)")

    return app
