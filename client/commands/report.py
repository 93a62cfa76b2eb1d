"""A job's answer as one file, to read, to send, or to publish beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.shared import JobId, Url, connect
from client.errors import ClientError

app = typer.Typer()

FORMS = {".html": "text/html", ".md": "text/markdown", ".json": "application/json"}

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="FILE.html (the default), .md (a model card) or .json.")
]
Alone = Annotated[str | None, typer.Option(help="The job that trained the same student without the teacher.")]


@app.command()
def report(job: JobId, output: Output = None, alone: Alone = None, url: Url = "") -> None:
    """Write what became of a job into one file that needs nothing else: verdict, figures, charts, specification."""
    with connect(url) as client:
        target = output or Path(f"report-{client.job(job).id[:8]}.html")
        if (form := FORMS.get(target.suffix.lower())) is None:
            kind = target.suffix or "file without an ending"
            raise ClientError(f"A report is no {kind}.", remedy=f"Let the name end with one of {', '.join(FORMS)}.")
        text = client.report_as(job, form, alone=alone)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "Name another file with --output."
        raise ClientError(f"{target} cannot be written: {error.strerror}.", remedy=remedy) from error
    print(target)
