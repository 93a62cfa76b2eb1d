"""What a shell may complete: jobs and sweeps by their names, presets, charts. A service that is away completes nothing.

The shell's part (`crosskd --install-completion`) is typer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import httpx
import typer

from client.connect import connect
from client.errors import ClientError
from client.sdk import Crosskd
from client.terminal.visible import visible
from wire.jobs import JobSummary
from wire.sweeps import SweepSummary

NEWEST = 50  # of jobs or sweeps: nobody chooses among more
PATIENCE = httpx.Timeout(2.0)  # seconds: somebody waits for it with a key pressed
JOB_CHARTS = "loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost"
SWEEP_CHARTS = "differences, sweep_ap, sweep_classes"
QUOTED = frozenset(" \t:'\"\\$`!;&|<>()*?[]{}~#")

Found = list[tuple[str, str]]  # the word, and what a shell that can shows beside it


def jobs(context: typer.Context, incomplete: str) -> Found:
    """Names and ids of the newest jobs."""
    return _of(context, lambda client: client.jobs.list(), incomplete)


def sweeps(context: typer.Context, incomplete: str) -> Found:
    """As `jobs`, of sweeps."""
    return _of(context, lambda client: client.sweeps.list(), incomplete)


def presets(context: typer.Context, incomplete: str) -> Found:
    """Presets of the service. Files are the shell's."""
    try:
        with _quick(context) as client:
            found = client.presets.list()
    except ClientError:
        return []
    return [(preset.name, preset.title) for preset in found if preset.name.startswith(incomplete)]


def charts(incomplete: str) -> list[str]:
    """Names of charts."""
    return [name for name in f"{JOB_CHARTS}, {SWEEP_CHARTS}".split(", ") if name.startswith(incomplete)]


def _of(
    context: typer.Context, listed: Callable[[Crosskd], Iterable[JobSummary | SweepSummary]], incomplete: str
) -> Found:
    try:
        with _quick(context) as client:
            newest = list(islice(listed(client), NEWEST))
    except ClientError:
        return []
    found = {"@last": "the newest of yours"}
    for each in newest:
        # A name that a shell would have to quote, or show as something else, is left to its id.
        plain = visible(each.name) == each.name and not set(each.name) & QUOTED
        found.setdefault(each.name if plain else each.id, f"{visible(each.name)}, {each.status}")
        if incomplete and each.id.startswith(incomplete):
            found[each.id] = f"{visible(each.name)}, {each.status}"
    return [(word, told) for word, told in found.items() if word.startswith(incomplete)]


def _quick(context: typer.Context) -> Crosskd:
    client = connect(str(context.params.get("url") or ""), PATIENCE)
    client.patience = 0.0
    return client
