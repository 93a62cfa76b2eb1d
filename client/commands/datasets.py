"""`crosskd datasets`: imported data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.shared import PathAsJson, console, show_path
from client.dataset_text import comparison_lines
from client.errors import ClientError
from client.visible import visible
from crosskd.spec.inputs import real_path

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


@datasets_app.command()
def page(
    folder: Annotated[Path, typer.Argument(help="A folder that `crosskd import` has written.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.html to write.")],
    images: Annotated[int, typer.Option(min=0, max=500, help="Sample images of each split.")] = 24,
    data_root: Annotated[
        list[Path] | None, typer.Option("--data-root", help="A folder that images may be links into.")
    ] = None,
    as_json: PathAsJson = False,
) -> None:
    """Write the report of an import and sample images with their boxes as one page that needs nothing else."""
    try:
        from crosskd.datasets.samples import sample_pictures
        from crosskd.datasets.written import read_report
        from report.page import dataset_page
        from report.samples import DatasetPicture
    except ModuleNotFoundError as error:
        raise ClientError(
            f"A page needs the package {error.name}, which is not installed.",
            remedy="Install what the whole service needs: pip install 'crosskd[local]'.",
        ) from None
    found = read_report(folder)
    pictures = sample_pictures(folder, found, images, [real_path(root) for root in data_root or []])
    text = dataset_page(found, [DatasetPicture(**vars(picture)) for picture in pictures])
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClientError(f"Cannot write {output}: {error.strerror or error}.") from error
    if as_json:
        show_path(output, as_json)
        return
    console().print(visible(f"Written: {output}, with {len(pictures)} images."), soft_wrap=True)
