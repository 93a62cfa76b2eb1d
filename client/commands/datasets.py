"""`crosskd datasets`: imported data sets, of the service and in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
from client.commands.shared import (
    AsJson,
    PathAsJson,
    Url,
    connect,
    console,
    print_json,
    show_all,
    show_path,
    tell_notes,
    warn,
)
from client.errors import ClientError
from client.terminal.dataset_text import comparison_lines, datasets_table, report_lines, versions_table
from client.terminal.visible import visible
from crosskd.spec.inputs import real_path

datasets_app = typer.Typer(no_args_is_help=True, help="Imported data sets.")
app = typer.Typer()
app.add_typer(datasets_app, name="datasets")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the service calls the data set.")]


@datasets_app.command("list")
def list_datasets(
    owner: Annotated[str | None, typer.Option(help="Only this owner's; @me: the token's.")] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """List the service's data sets by name."""
    with connect(url) as client:
        found = list(client.datasets.list(owner=owner))
    show_all(found, datasets_table, as_json)


@datasets_app.command()
def show(
    dataset: Annotated[str, typer.Argument(metavar="NAME[@DIGEST]", help="A data set; or one of its versions.")],
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Show the versions of a data set; with the beginning of a digest, the report of that version."""
    name, _, digest = dataset.partition("@")
    with connect(url) as client:
        if digest:
            version = client.datasets.version(name, digest)
            if as_json:
                print_json(version)
                return
            for line in report_lines(version.report):
                console().print(visible(line), soft_wrap=True)
            return
        found = client.datasets.get(name)
    if as_json:
        print_json(found)
        return
    show_all(found.versions, versions_table, as_json)
    if found.importing:
        tell_notes([f"importing: {', '.join(found.importing)}"])


@datasets_app.command()
def add(
    name: Name,
    source: Annotated[Path, typer.Argument(help="Its folder in a data root, or its .json file or data.yaml.")],
    format_: Format = "auto",
    images: Images = None,
    validation: Validation = None,
    seed: Seed = None,
    group_by: GroupBy = None,
    refuse: Refuse = False,
    near: Near = True,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Post the import of a data set and print its job's id; `crosskd watch` follows it."""
    check_split(validation, seed, group_by)
    order: dict[str, Any] = {
        "name": name,
        "source": str(source.absolute()),
        "format": format_,
        "images": None if images is None else str(images.absolute()),
        "on_fault": "refuse" if refuse else "drop",
        "near_duplicates": near,
    }
    if validation is not None:
        order["split"] = {"validation": validation, "seed": seed or 0, "group_by": group_by}
    with connect(url) as client:
        created = client.datasets.create(order)
    tell_notes(created.notes)
    warn(created.warnings)
    if as_json:
        print_json(created)
    else:
        print(created.id)


@datasets_app.command()
def rm(name: Name, as_json: AsJson = False, url: Url = "") -> None:
    """Forget a data set with all its versions; its images stay where they are."""
    with connect(url) as client:
        client.datasets.delete(name)
    if as_json:
        print_json({"name": name, "deleted": True})
    else:
        print(f"{name}: deleted")


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
