"""The answer of a job or a sweep as one file, to read, to send, or to publish beside the weights."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from client.commands.shared import Url, connect
from client.errors import ApiProblem, ClientError
from client.references import is_id
from client.sdk import Client

app = typer.Typer()

FORMS = {".html": "text/html", ".md": "text/markdown", ".json": "application/json"}

JobOrSweep = Annotated[
    str,
    typer.Argument(
        help="A job by its id, the beginning of it, its name, or @last; or the id of a sweep.", metavar="JOB|SWEEP"
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="FILE.html (the default), .md (a model card) or .json.")
]
Alone = Annotated[str | None, typer.Option(help="The job that trained the same student without the teacher.")]


@app.command()
def report(job: JobOrSweep, output: Output = None, alone: Alone = None, url: Url = "") -> None:
    """Write the answer of a job or a sweep into one file that needs nothing else: verdict, figures, charts."""
    target = output or Path(f"report-{re.sub('[^A-Za-z0-9]', '', job)[:8]}.html")
    if (form := FORMS.get(target.suffix.lower())) is None:
        kind = target.suffix or "file without an ending"
        raise ClientError(f"A report is no {kind}.", remedy=f"Let the name end with one of {', '.join(FORMS)}.")
    with connect(url) as client:
        text = _report(client, job, form, alone)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "Name another file with --output."
        raise ClientError(f"{target} cannot be written: {error.strerror}.", remedy=remedy) from error
    print(target)


def _report(client: Client, reference: str, form: str, alone: str | None) -> str:
    """Of a job, or else of the sweep of that id; a sweep has no other name."""
    try:
        return client.report_as(reference, form, alone=alone)
    except ApiProblem as problem:
        if problem.problem.status != HTTPStatus.NOT_FOUND or alone is not None or not is_id(reference):
            raise
    return _report_of_sweep(client, reference, form)


def _report_of_sweep(client: Client, sweep: str, form: str) -> str:
    card = form == FORMS[".md"]
    try:
        text = client.sweep_report(sweep, FORMS[".json"] if card else form)
    except ApiProblem as problem:
        if problem.problem.status != HTTPStatus.NOT_FOUND:
            raise
        remedy = "`crosskd jobs` and `crosskd sweeps` list them."
        raise ClientError(f"There is no job and no sweep {sweep}.", remedy=remedy) from None
    if card:
        remedy = "Name one of its jobs, or let the file's name end with .html or .json."
        raise ClientError("A sweep has no model card.", remedy=remedy)
    return text
