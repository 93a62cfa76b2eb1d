"""What the verbs that ask the service have in common: options, the client, tables or JSON, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from client import completion, specs
from client.connect import connect as connect
from client.sdk import Crosskd
from client.terminal import tables
from client.terminal.visible import visible
from wire.jobs import DataWarning

FAILED = 1
INTERRUPTED = 130
WIDE = 10_000  # columns: more than a table has

Url = Annotated[
    str, typer.Option("--url", envvar="CROSSKD_URL", help="The service, as http://gpu-box:8470; default: this home's.")
]
JobId = Annotated[
    str,
    typer.Argument(
        help="Its id, the beginning of it (4 characters or more), its name, or @last.",
        metavar="JOB",
        autocompletion=completion.jobs,
    ),
]
SweepId = Annotated[
    str,
    typer.Argument(
        help="Its id, the beginning of it (4 characters or more), its name, or @last.",
        metavar="SWEEP",
        autocompletion=completion.sweeps,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's own JSON.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")]
PathAsJson = Annotated[bool, typer.Option("--json", help="Print where it was written as JSON.")]
AtTheEnd = Annotated[bool, typer.Option("--json", help="Print how it ended as JSON; what is told until then: stderr.")]


def read_preset(client: Crosskd, name: str) -> dict[str, Any]:
    return specs.of_preset({preset.name: preset for preset in client.presets.list()}, name)


def console() -> Console:
    return Console(highlight=False, markup=False)


def wide_console() -> Console:
    """For tables: lines stay whole, and a narrow terminal wraps them; Rich would cut ids and leave out columns."""
    return Console(highlight=False, markup=False, width=WIDE, soft_wrap=True)


def terminal_width() -> int | None:
    """The columns of the terminal; None: a file or a pipe, which has no width to fit into."""
    return console().width if sys.stdout.isatty() else None


def goes_on(group: str, identifier: str) -> None:
    """What to know after Ctrl-C: only the watching has ended. `group` is before the verb: `sweeps ` or nothing."""
    verb = f"crosskd {group}"
    text = f"It goes on. `{verb}watch {identifier}` follows it again, `{verb}cancel {identifier}` ends it."
    print(f"\n{text}", file=sys.stderr)


def print_json(value: BaseModel | Any) -> None:
    """An answer of the service, or values, as JSON."""
    values = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    print(json.dumps(values, indent=2), flush=True)


def progress_console(as_json: bool) -> Console:
    """Where to tell how far something is: beside the output, where that is JSON."""
    return Console(highlight=False, markup=False, stderr=as_json)


def show_path(path: Path, as_json: bool) -> None:
    """Where something was written."""
    if as_json:
        print_json({"path": str(path)})
    else:
        print(path)


def show_all(items: Iterable[BaseModel], table: Callable[[Iterable[Any]], Any], as_json: bool) -> None:
    if as_json:
        print_json([item.model_dump(mode="json") for item in items])
    else:
        show_tables([table(items)])


def show_tables(tables: Iterable[Table]) -> None:
    screen = wide_console()
    for table in tables:
        screen.print(table)


def tell_notes(lines: Iterable[str]) -> None:
    """Beside the output, which is read by programs too."""
    for line in lines:
        typer.echo(visible(line), err=True)


def warn(warnings: Iterable[DataWarning]) -> None:
    """On the error stream, so that an id or a specification on the other stays alone."""
    for warning in warnings:
        print(tables.warning_line(warning), file=sys.stderr)
