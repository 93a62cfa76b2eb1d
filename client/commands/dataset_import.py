"""`crosskd import`: a data set on this machine, checked and written as trainings read it. Asks no service."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.commands.import_options import (
    Format,
    GroupBy,
    Images,
    Near,
    Refuse,
    Seed,
    Validation,
    check_split,
)
from client.commands.shared import console
from client.errors import ClientError
from client.terminal.dataset_text import report_lines
from client.terminal.visible import visible
from crosskd.spec.data.import_config import ImportConfig, SplitConfig
from crosskd.spec.inputs import real_path

app = typer.Typer()


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="A folder in the form of COCO, YOLO or Pascal VOC; or its .json file or data.yaml.")
    ],
    to: Annotated[Path, typer.Option("--to", help="A new folder for train.json, val.json and report.json.")],
    format_: Format = "auto",
    images: Images = None,
    validation: Validation = None,
    seed: Seed = None,
    group_by: GroupBy = None,
    refuse: Refuse = False,
    near: Near = True,
    data_root: Annotated[
        list[Path] | None,
        typer.Option("--data-root", help="A folder that links in the source may lead to; as often as you like."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a data set of COCO, YOLO or Pascal VOC, and write it as COCO files with a report, without the service."""
    check_split(validation, seed, group_by)
    try:
        split = None
        if validation is not None:
            split = SplitConfig(validation=validation, seed=seed or 0, group_by=group_by)
        config = ImportConfig(
            source=str(source),
            format=format_,
            images=None if images is None else str(images),
            split=split,
            on_fault="refuse" if refuse else "drop",
            near_duplicates=near,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = "-".join(map(str, fault["loc"])).replace("_", "-")
        raise typer.BadParameter(f"--{name}: {fault['msg'].removeprefix('Value error, ')}") from None
    try:
        from crosskd.datasets.importing import import_dataset
    except ModuleNotFoundError as error:
        raise ClientError(
            f"An import needs the package {error.name}, which is not installed.",
            remedy="Install the core beside the client: pip install 'crosskd[core]'.",
        ) from None
    with _progress() as on_progress:
        result = import_dataset(
            config,
            to,
            on_progress=on_progress,
            stop=lambda: False,  # Ctrl-C ends it at once: nothing was written yet
            roots=[real_path(root) for root in data_root or []],
        )
    if as_json:
        print(result.report.model_dump_json(indent=2))
        return
    screen = console()
    for line in report_lines(result.report):
        screen.print(visible(line), soft_wrap=True)
    screen.print(visible(f"Written: {', '.join(map(str, result.files))}."), soft_wrap=True)
    next_ = f"crosskd init {shlex.quote(str(to))} --images {shlex.quote(result.images)}"
    screen.print(visible(f"Next: {next_}"), soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on the error stream, where that is a terminal."""
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("images", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
