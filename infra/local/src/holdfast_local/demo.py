"""`holdfast-local demo`: the whole platform, 60 orders, three faults, a verdict. docs/tutorial/demo.md tells it."""

import asyncio

import aiohttp
from rich.console import Console

from holdfast_local.audit import run_oracle
from holdfast_local.demo_client import open_demo_client
from holdfast_local.demo_story import Story
from holdfast_local.demo_table import as_table
from holdfast_local.demo_verdict import deviations
from holdfast_local.demo_watch import Narrator
from holdfast_local.errors import RunnerError
from holdfast_local.platform import Platform, running_platform
from holdfast_local.settings import LocalSettings
from holdfast_local.state import fresh_state

_ORACLE_SECONDS = 30  # for what no client sees, such as the last job's end; everything else is settled by then


async def demo(settings: LocalSettings, console: Console) -> None:
    """Run it in a fresh state folder of its own; afterwards only its logs are left.

    Raises RunnerError, everything stopped, when the platform already runs, a port is taken, an order is not settled in
    time, an invariant is violated or the run was not as the script says.
    """
    narrator = Narrator(console)
    with fresh_state(settings, "demo") as own:
        servers = "PostgreSQL, Valkey, the payment provider, the mailbox, a customer's endpoint"
        narrator.say("starting", f"{servers}; four services, an API and a worker each")
        async with running_platform(own, on_event=narrator.on_event) as platform:
            programs = len(platform.record.programs)
            narrator.say("ready", f"{programs} processes, after {platform.ready_seconds:.1f} s", style="green")
            try:
                with narrator.telling_events():
                    await _tell(platform, console, narrator)
            finally:
                narrator.say("stopping", "everything")
        narrator.say("done", f"all as the script says; the logs are in {own.state / 'logs'}", style="green")


async def _tell(platform: Platform, console: Console, narrator: Narrator) -> None:
    async with open_demo_client(platform.installation) as client:
        story = Story(platform, client, narrator)
        try:
            told = await story.tell()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RunnerError(f"the platform did not answer: {type(error).__name__} {error}") from error
    narrator.say("oracle", "asks every database, the provider's ledger, the mailbox and the customer")
    holds = await _ask_oracle(platform)
    console.print()
    console.print(as_table(told))
    console.print()
    problems = deviations(told) + ([] if holds else ["the oracle did not find that every invariant holds"])
    if problems:
        raise RunnerError("\n".join(problems))


async def _ask_oracle(platform: Platform) -> bool:
    """It prints its lines. A payments worker was killed, which excuses no copy of a mail."""
    options = ["--wait", str(_ORACLE_SECONDS)]
    return await asyncio.to_thread(run_oracle, platform.installation, options) == 0
