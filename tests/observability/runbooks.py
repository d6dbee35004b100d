"""The pages of docs/runbooks, and what they tell somebody to run."""

import asyncio
import os
import re
from collections.abc import Iterator

from holdfast_local.settings import LocalSettings
from rules import ROOT

RUNBOOKS = ROOT / "docs" / "runbooks"
_AT_ONCE = asyncio.Semaphore(2)  # each starts two interpreters


def pages() -> dict[str, str]:
    """By the names of their alerts."""
    return {path.stem: path.read_text("utf-8") for path in sorted(RUNBOOKS.glob("*.md")) if path.stem != "README"}


def blocks(language: str, text: str) -> Iterator[str]:
    """The lines of the page's blocks in that language."""
    for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()


def commands() -> list[str]:
    """Each once: those under *Look*, and those under *Do* that only say what they would do."""
    found: dict[str, None] = {}
    for text in pages().values():
        found |= dict.fromkeys((*blocks("sh", text), *re.findall(r"`(make run CMD=\".*?--dry-run\")`", text)))
    return list(found)


async def ran(command: str, settings: LocalSettings) -> tuple[int, str]:
    """Exit code and output of a command of the bare machine, on the installation with these settings."""
    async with _AT_ONCE:
        return await _ran(command, settings)


async def _ran(command: str, settings: LocalSettings) -> tuple[int, str]:
    process = await asyncio.create_subprocess_shell(
        _here(command, settings),
        cwd=ROOT,
        env=os.environ | _variables(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def _variables(settings: LocalSettings) -> dict[str, str]:
    ports = {f"LOCAL_{name.upper()}": str(value) for name, value in settings if name.endswith("_port")}
    return ports | {"LOCAL_STATE": str(settings.state), "LOCAL_PORT_OFFSET": "0", "LOCAL_POSTGRES_DURABLE": "false"}


def _here(command: str, settings: LocalSettings) -> str:
    """With the ports of this run in place of the usual ones."""
    usual = {field.default: name for name, field in LocalSettings.model_fields.items() if name.endswith("_port")}
    return re.sub(
        r"(127\.0\.0\.1:)(\d+)", lambda found: f"{found[1]}{getattr(settings, usual[int(found[2])])}", command
    )
