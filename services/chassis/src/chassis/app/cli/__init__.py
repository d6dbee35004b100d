"""The command of a service: `orders api | worker | migrate | config explain | jobs … | …`, a container's entry point.

Read `command` first: it puts the command together. Each of `config`, `jobs`, `events` and `api_keys` has one group of
commands; `operator` has what they share.
"""

from chassis.app.cli.command import EXIT_CONFIGURATION, build_cli

__all__ = ["EXIT_CONFIGURATION", "build_cli"]
