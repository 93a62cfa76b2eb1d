"""A sweep's progress on the screen: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from client.sdk import Crosskd
from client.terminal import sweep_tables
from client.terminal.watch import LINE_SECONDS
from wire.sweeps import Sweep


def follow(client: Crosskd, sweep: str, console: Console, *, interval: float = 2.0) -> Sweep:
    """Show a sweep until all of its jobs have ended, and return it as it ended."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def show_table(current: Sweep) -> None:
                live.update(_table(current, console.width), refresh=True)

            return client.sweeps.wait(sweep, on_progress=show_table, interval=interval)
    return client.sweeps.wait(sweep, on_progress=_Lines(console).show, interval=interval)


def show(sweep: Sweep, console: Console, url: str, width: int | None = None) -> None:
    """The answer: figures (in tables of at most `width` columns), verdicts, and where its report is."""
    for table in sweep_tables.results_tables(sweep, width):
        console.print(table)
    for line in sweep_tables.answer_lines(sweep):
        console.print(line)
    console.print(f"The report: {url}/sweeps/{sweep.id}/report")


def _table(sweep: Sweep, width: int) -> Group:
    return Group(Text(sweep_tables.progress_line(sweep)), sweep_tables.results_tables(sweep, width)[0])


class _Lines:
    """A line when a job has ended or begun, and every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.states: dict[str, int] = {}
        self.line, self.time = "", 0.0

    def show(self, sweep: Sweep) -> None:
        line, now = sweep_tables.progress_line(sweep), time.monotonic()
        if line == self.line or (sweep.jobs == self.states and now - self.time < LINE_SECONDS):
            return
        self.states, self.line, self.time = sweep.jobs, line, now
        self.console.print(line)
