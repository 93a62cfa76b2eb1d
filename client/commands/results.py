"""What jobs have made, what they can be made of, and whether the service still holds all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from client import audit as audits
from client.commands.shared import (
    FAILED,
    AsJson,
    JobId,
    JsonLines,
    PathAsJson,
    Url,
    connect,
    print_json,
    read_preset,
    show_all,
    show_path,
    show_tables,
    tell_notes,
)
from client.terminal import comparisons, image_tables, tables
from client.terminal.visible import visible
from wire.images import MAX_PAGE, PAGE, Order

app = typer.Typer()

FEWEST = 2  # jobs of a comparison


@app.command()
def metrics(
    job: JobId,
    key: Annotated[str | None, typer.Option(help="One series, such as loss.")] = None,
    since_step: Annotated[int, typer.Option(min=0)] = 0,
    attempt: Annotated[int | None, typer.Option(help="An earlier try, as it was.")] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Print a job's metric points."""
    with connect(url) as client:
        rows = list(client.jobs.metrics(job, key=key, since_step=since_step, attempt=attempt))
    show_all(rows, tables.metrics_table, as_json)


@app.command()
def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each line as it comes.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="So many of the last lines.")] = 200,
    as_json: JsonLines = False,
    url: Url = "",
) -> None:
    """Print the end of a job's log; the whole of it is the artifact log.txt."""
    with connect(url) as client:
        for line in client.jobs.logs(job, tail=tail, follow=follow):
            print(line.model_dump_json() if as_json else visible(str(line)), flush=follow)


@app.command()
def evaluations(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Print COCO's figures for every evaluated checkpoint."""
    with connect(url) as client:
        rows = client.jobs.evaluations(job)
    show_all(rows, tables.evaluations_table, as_json)


@app.command()
def compare(
    jobs: Annotated[
        list[str], typer.Argument(help="Two jobs or more; `JOB:teacher` is a job's teacher.", metavar="JOB...")
    ],
    baseline: Annotated[
        str | None, typer.Option(metavar="JOB", help="Which of them the others are compared with; default: the first.")
    ] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Compare jobs that were measured on the same images: each difference with its 95 % interval."""
    if len(jobs) < FEWEST:
        raise typer.BadParameter("name two jobs or more: `JOB JOB:teacher` compares a student with its teacher")
    with connect(url) as client:
        found = client.compare(jobs, baseline=baseline)
    if as_json:
        print_json(found)
        return
    show_tables(comparisons.tables_of(found))


@app.command()
def images(
    job: JobId,
    order: Annotated[Order, typer.Option(help="`gain` needs `--against`.")] = "f1_loss",
    class_name: Annotated[str | None, typer.Option("--class", help="Boxes of this class alone.")] = None,
    against: Annotated[str | None, typer.Option(metavar="JOB", help="Another job on the same images.")] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="The sample images of the evaluation at this step; default: all, best.")
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=MAX_PAGE, help="So many images.")] = PAGE,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """List the validation images of a job, those where the student lost most against the teacher first."""
    with connect(url) as client:
        found = client.jobs.images(job, order=order, against=against, class_name=class_name, step=step, limit=number)
    if as_json:
        print_json(found)
        return
    show_tables([image_tables.images_table(found)])
    tell_notes(found.remarks)


@app.command()
def artifacts(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """List the files a job published."""
    with connect(url) as client:
        items = client.jobs.artifacts(job)
    show_all(items, tables.artifacts_table, as_json)


@app.command()
def download(
    job: JobId,
    name: Annotated[str | None, typer.Argument(help="An artifact; default: the best student's weights.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file or a folder.")] = Path(),
    as_json: PathAsJson = False,
    url: Url = "",
) -> None:
    """Fetch an artifact, verified by its sha256; a broken transfer goes on where it stopped."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    screen = Console(stderr=True)
    silent = not screen.is_terminal
    with connect(url) as client, Progress(*columns, console=screen, transient=True, disable=silent) as bars:
        row = bars.add_task("", total=None)

        def on_bytes(done: int, size: int) -> None:
            bars.update(row, completed=done, total=size)

        wanted = client.jobs.ref(job)
        path = wanted.weights(output, on_bytes) if name is None else wanted.download(name, output, on_bytes)
    show_path(path, as_json)


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this one as YAML.")] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """List the ready-made configurations."""
    with connect(url) as client:
        if name is None:
            show_all(client.presets.list(), tables.presets_table, as_json)
        elif as_json:
            print_json(read_preset(client, name))
        else:
            print(yaml.safe_dump(read_preset(client, name), sort_keys=False), end="")


@app.command()
def audit(
    verify: Annotated[bool, typer.Option("--verify", help="Read every file, and compare its sha256.")] = False,
    as_json: JsonLines = False,
    url: Url = "",
) -> None:
    """Compare the service's rows with its files, both ways; exit code 1 if they differ. Needs an admin's token."""
    with connect(url) as client:
        agrees = audits.show(client.audit(verify=verify), as_json=as_json)
    raise typer.Exit(0 if agrees else FAILED)
