"""What the runner shows: a table of what runs, and a line per event."""

import asyncio
from datetime import datetime

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast_local.probes import ready_over_http
from holdfast_local.runs import ProcessRecord, ProgramRecord, RunRecord
from holdfast_local.supervisor import Change, Event

_MEGABYTE = 1_000_000
_STYLES = {Change.READY: "green", Change.CRASHED: "bold red", Change.STOPPED: "dim", Change.FINISHED: "green"}


def print_event(console: Console, event: Event) -> None:
    """One line; that a process was started is said when it is ready."""
    if event.change is Change.STARTED:
        return
    line = Text(f"{datetime.now().astimezone():%H:%M:%S}  ", style="dim")
    line.append(f"{event.program:<24}", style="default")
    line.append(f"{event.change:<9}", style=_STYLES[event.change])
    line.append(f"pid {event.pid:<8} {event.detail}", style="dim")
    console.print(line)


async def print_table(console: Console, record: RunRecord) -> None:
    """Every process: address, health and memory as of now; below, what all of them use together."""
    table = Table("process", "address", "management", "pid", "health", box=None, header_style="bold", pad_edge=False)
    table.add_column("PSS, MB", justify="right")
    table.add_column("restarts", justify="right")
    health = await asyncio.gather(*(_health(program) for program in record.programs))
    memory = [_memory(program.process) for program in record.programs]
    for program, state, used in zip(record.programs, health, memory, strict=True):
        name, pid, restarts = program.name, str(program.process.pid), str(program.restarts)
        table.add_row(name, program.address, program.management, pid, state, _megabytes(used), restarts)
    runner = _pss(psutil.Process(record.runner.pid))
    table.add_row("(this runner)", "", "", str(record.runner.pid), Text("running"), _megabytes(runner), "")
    console.print(table)
    ready = f", ready after {record.ready_seconds:.1f} s" if record.ready_seconds is not None else ", starting"
    console.print(f"All processes use {_megabytes(sum(memory) + runner)} MB (PSS){ready}.")


async def _health(program: ProgramRecord) -> Text:
    if program.process.find() is None:
        return Text("gone", style="bold red")
    address = program.management or program.address
    if not address.startswith("http://"):
        return Text("running", style="green")
    is_ready = await ready_over_http(int(address.rpartition(":")[2]))()
    return Text("ready", style="green") if is_ready else Text("not ready", style="bold red")


def _memory(record: ProcessRecord) -> int:
    """Bytes of a process and its descendants: PSS, which counts a shared page once over all who share it."""
    process = record.find()
    if process is None:
        return 0
    return sum(_pss(member) for member in (process, *process.children(recursive=True)))


def _pss(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    pss: int = getattr(memory, "pss", memory.uss)  # only Linux knows PSS
    return pss


def _megabytes(amount: int) -> str:
    return f"{amount / _MEGABYTE:,.0f}"
