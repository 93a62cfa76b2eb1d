"""`crosskd datasets`: imported data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.shared import console
from client.dataset_text import comparison_lines
from client.visible import visible

datasets_app = typer.Typer(no_args_is_help=True, help="Imported data sets.")
app = typer.Typer()
app.add_typer(datasets_app, name="datasets")


@datasets_app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A folder that `crosskd import` has written.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """What differs between two versions of a data set: classes, images, boxes, faults. Asks no service."""
    from crosskd.datasets.compare import compare_folders

    found = compare_folders(before, after)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    screen = console()
    for line in comparison_lines(found):
        screen.print(visible(line), soft_wrap=True)
