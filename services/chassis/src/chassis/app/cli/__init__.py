"""The command of a service, which its containers run: `orders api | worker | migrate | config explain | …`.

Read `command` first: it starts an API or worker process, or runs one of an operator's `commands`. Each of `config`,
`jobs`, `events` and `api_keys` has one group of commands; `operator` has the functions that these commands share.
"""

from chassis.app.cli.command import EXIT_CONFIGURATION, build_cli

__all__ = ["EXIT_CONFIGURATION", "build_cli"]
