"""How a data set is imported, as options: of `crosskd import` and of `crosskd datasets add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Annotated[
    Literal["auto", "coco", "yolo", "voc"], typer.Option("--format", help="auto: by the files that are there.")
]
Images = Annotated[Path | None, typer.Option(help="The folder that a COCO file's `file_name`s are relative to.")]
Validation = Annotated[
    float | None,
    typer.Option(help="Divide anew: this share of the images validates. Default: as the source does."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="By which --validation draws the images; default: 0.")]
GroupBy = Annotated[
    str | None,
    typer.Option(help="`folder`, or a regular expression on file names: images of one group stay in one split."),
]
Refuse = Annotated[bool, typer.Option("--refuse", help="Fail where anything would be left out or clipped.")]
Near = Annotated[bool, typer.Option("--near/--no-near", help="Look for images that nearly show the same.")]


def check_split(validation: float | None, seed: int | None, group_by: str | None) -> None:
    """Raises `BadParameter`: of a split that is not made."""
    if validation is None and (seed is not None or group_by is not None):
        raise typer.BadParameter("--seed and --group-by are for --validation, which is not given")
