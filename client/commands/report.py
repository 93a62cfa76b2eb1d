"""The answer of a job or a sweep as one file, to read, to send, or to publish beside the weights; its charts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client import charts, completion
from client.commands.shared import PathAsJson, Url, connect, show_path
from client.errors import ApiProblem, ClientError
from client.references import UnknownReference, is_id
from client.sdk import Crosskd
from wire.jobs import LONGEST_NAME

if TYPE_CHECKING:
    from report.charts.parts import AnyChart

app = typer.Typer()

FORMS = {".html": "text/html", ".md": "text/markdown", ".json": "application/json"}

JobOrSweep = Annotated[
    str,
    typer.Argument(
        help="Its id, the beginning of it (4 characters or more), its name, or @last: of a job, or else of a sweep.",
        metavar="JOB|SWEEP",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="FILE.html (the default), .md (a model card) or .json.")
]
Alone = Annotated[str | None, typer.Option(help="The job that trained the same student without the teacher.")]


@app.command()
def report(
    job: JobOrSweep, output: Output = None, alone: Alone = None, as_json: PathAsJson = False, url: Url = ""
) -> None:
    """Write the answer of a job or a sweep into one file that needs nothing else: verdict, figures, charts."""
    target = output or Path(f"report-{_in_file_names(job)[:8]}.html")
    if (form := FORMS.get(target.suffix.lower())) is None:
        kind = target.suffix or "file without an ending"
        raise ClientError(f"A report is no {kind}.", remedy=f"Let the name end with one of {', '.join(FORMS)}.")
    with connect(url) as client:
        text = _report(client, job, form, alone)
    _write(target, text.encode(), as_json)


@app.command()
def chart(
    job: JobOrSweep,
    name: Annotated[
        str,
        typer.Argument(
            help="Of a job: loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost. "
            "Of a sweep: differences, sweep_ap, sweep_classes.",
            autocompletion=completion.charts,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FILE.png (the default), .svg or .json (Vega-Lite).")
    ] = None,
    alone: Alone = None,
    as_json: PathAsJson = False,
    url: Url = "",
) -> None:
    """Write one chart of a job or a sweep as a picture. It needs `pip install 'crosskd[charts]'`."""
    target = output or Path(f"{_in_file_names(name)}-{_in_file_names(job)[:8]}.png")
    if (form := target.suffix.lower()) not in charts.FORMS:
        kind = target.suffix or "file without an ending"
        raise ClientError(f"A chart is no {kind}.", remedy=f"Let the name end with one of {', '.join(charts.FORMS)}.")
    with connect(url) as client:
        drawn = _chart(client, job, name, alone)
    _write(target, charts.encoded(drawn, form), as_json)


def _write(target: Path, content: bytes, as_json: bool) -> None:
    try:
        target.write_bytes(content)
    except OSError as error:
        remedy = "Name another file with --output."
        raise ClientError(f"{target} cannot be written: {error.strerror}.", remedy=remedy) from error
    show_path(target, as_json)


def _in_file_names(text: str) -> str:
    return re.sub("[^A-Za-z0-9_]", "", text)


def _chart(client: Crosskd, reference: str, name: str, alone: str | None) -> AnyChart:
    """Of a job, or else of the sweep that is called so."""
    try:
        return client.jobs.chart(reference, name, alone=alone)
    except ApiProblem as problem:
        if not _may_be_a_sweep(problem, reference, alone):
            raise
        no_job = problem
    with _no_such_sweep(reference, no_job):
        return client.sweeps.chart(reference, name)


def _report(client: Crosskd, reference: str, form: str, alone: str | None) -> str:
    """Of a job, or else of the sweep that is called so."""
    try:
        return client.jobs.report_as(reference, form, alone=alone)
    except ApiProblem as problem:
        if not _may_be_a_sweep(problem, reference, alone):
            raise
        no_job = problem
    card = form == FORMS[".md"]
    with _no_such_sweep(reference, no_job):
        text = client.sweeps.report(reference, FORMS[".json"] if card else form)
    if card:
        remedy = "Name one of its jobs, or let the file's name end with .html or .json."
        raise ClientError("A sweep has no model card.", remedy=remedy)
    return text


def _may_be_a_sweep(problem: ApiProblem, reference: str, alone: str | None) -> bool:
    no_job = isinstance(problem, UnknownReference) or (
        problem.problem.status == HTTPStatus.NOT_FOUND and is_id(reference)
    )
    return no_job and alone is None


@contextmanager
def _no_such_sweep(reference: str, no_job: ApiProblem) -> Iterator[None]:
    """That there is neither a job (as `no_job` says) nor a sweep of that id or name; names that are near are told."""
    try:
        yield
    except ApiProblem as problem:
        if problem.problem.status != HTTPStatus.NOT_FOUND:
            raise
        remedy = "`crosskd jobs` and `crosskd sweeps` list them."
        if isinstance(problem, UnknownReference):
            remedy = f"{no_job.problem.remedy} {problem.problem.remedy}"
        raise ClientError(f"There is no job and no sweep {reference[:LONGEST_NAME]}.", remedy=remedy) from None
