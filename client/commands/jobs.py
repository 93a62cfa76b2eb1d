"""A job's life: post it, watch it, steer it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from client import completion, specs
from client.commands.shared import (
    FAILED,
    AsJson,
    AtTheEnd,
    JobId,
    Url,
    connect,
    goes_on,
    print_json,
    progress_console,
    read_preset,
    show_all,
    tell_notes,
    warn,
)
from client.references import resolved_in
from client.sdk import Crosskd
from client.terminal import tables
from client.terminal.watch import best, follow
from wire.jobs import DryRun, Job

app = typer.Typer()


@app.command()
def submit(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC.yaml|PRESET|KIND",
            help="A job or its spec; a preset; or `evaluate` or `export`, from nothing. Or --like, in its place.",
            autocompletion=completion.presets,
        ),
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="JOB", help="Begin with the spec, labels and priority of this job.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Default: the file's, the preset's or the other job's.")] = None,
    kind: Annotated[str | None, typer.Option(help="train, distill, evaluate or export; default: by the spec.")] = None,
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE")] = [],  # noqa: B006 - typer's own form
    priority: Annotated[
        int | None, typer.Option(help="1 (last) to 9 (first) of the jobs that wait; default: 5.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with train.json, val.json, images/; or as COCO or Roboflow lay it out."),
    ] = None,
    teacher_job: Annotated[
        str | None, typer.Option(metavar="JOB", help="The teacher: a job's best weights; it may be on its way.")
    ] = None,
    teacher_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The teacher: weights, or a folder of transformers, in one of the service's data roots, as "
            "/data/teacher.safetensors or /data/rtdetr_r50vd.",
        ),
    ] = None,
    weights_job: Annotated[
        str | None, typer.Option(metavar="JOB", help="Evaluate or export: its best weights.")
    ] = None,
    weights_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Evaluate or export: as --teacher-file, what is used.")
    ] = None,
    values: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="schedule.epochs=3")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it with every default; store nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the job as JSON; with --dry-run in the form for `curl`.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: Url = "",
) -> None:
    """Post a job and print its id."""
    if (source is None) == (like is None):
        raise typer.BadParameter("give a spec, a preset or a kind, or --like JOB: one of them")
    teacher = job_or_file("teacher", teacher_job, teacher_file)
    weights = job_or_file("weights", weights_job, weights_file)
    with connect(url) as client:
        if like is not None:
            former = client.jobs.get(like)
            begun = specs.like(former, new_teacher=teacher is not None, new_weights=weights is not None)
            unnamed = former.name
        else:
            assert source is not None
            begun, unnamed = read_source(client, source), Path(source).stem
        job = specs.complete(
            begun,
            name=name or unnamed,
            kind=kind,
            labels=label,
            priority=priority,
            data=data,
            teacher=teacher,
            weights=weights,
            overrides=values,
        )
        job = resolved_in(job, client.jobs.resolve)
        if dry_run:
            _show_plan(client.jobs.dry_run(job), as_json)
            return
        created = client.jobs.create(job)
        tell_notes(created.notes)
        warn(created.warnings)
        if not as_json:
            print(created.id, flush=True)
        if watch:
            _follow(client, created.id, as_json)
        elif as_json:
            print_json(created)


def _show_plan(dry: DryRun, as_json: bool) -> None:
    """The job as it would be stored, in a form that can be posted again."""
    tell_notes(dry.notes)
    warn(dry.warnings)
    resolved = dry.model_dump(mode="json", exclude={"spec_version", "notes", "warnings"})
    print(json.dumps(resolved, indent=2) + "\n" if as_json else yaml.safe_dump(resolved, sort_keys=False), end="")


def _follow(client: Crosskd, job: str, as_json: bool) -> None:
    try:
        ended = follow(client, job, progress_console(as_json))
    except KeyboardInterrupt:
        goes_on("", job)
        raise
    finish(ended, as_json)


def _state(job: Job, as_json: bool) -> None:
    """By its id, whatever it was called by; a running job does what it is asked after its current step."""
    if as_json:
        print_json(job)
        return
    asked = {"cancel": job.cancel_requested_at, "stop": job.stop_requested_at, "pause": job.pause_requested_at}
    verbs = [verb for verb, at in asked.items() if at is not None and job.status == "running"]
    print(f"{job.id}: {job.status}" + (f", asked to {' and '.join(verbs)}" if verbs else ""))


@app.command("jobs")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = [],  # noqa: B006
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only jobs with this in their name, or whose id begins with it.")
    ] = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """List the jobs, newest first."""
    with connect(url) as client:
        jobs = list(client.jobs.list(status=status, labels=dict(specs.pair(text) for text in label), search=search))
    show_all(jobs, tables.jobs_table, as_json)


@app.command()
def show(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Show a job: state, history, attempts, and why it failed if it did."""
    with connect(url) as client:
        answer = client.jobs.get(job)
    if as_json:
        print_json(answer)
    else:
        print("\n".join(tables.job_lines(answer)))


@app.command()
def watch(job: JobId, as_json: AtTheEnd = False, url: Url = "") -> None:
    """Follow a job to its end; exit code 0 if it succeeds."""
    with connect(url) as client:
        _follow(client, client.jobs.resolve(job), as_json)


@app.command()
def cancel(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Discard a job."""
    with connect(url) as client:
        _state(client.jobs.cancel(job), as_json)


@app.command()
def stop(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """End a training early and keep its best: it is evaluated, and succeeds."""
    with connect(url) as client:
        _state(client.jobs.stop(job), as_json)


@app.command()
def pause(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Free a training's device; `resume` lets it go on from there."""
    with connect(url) as client:
        _state(client.jobs.pause(job), as_json)


@app.command()
def resume(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Queue a paused job again."""
    with connect(url) as client:
        _state(client.jobs.resume(job), as_json)


@app.command()
def retry(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Post a failed or cancelled job anew, from its last checkpoint if it has one, and print the new id."""
    with connect(url) as client:
        new = client.jobs.retry(job)
    if as_json:
        print_json(new)
    else:
        print(new.id)


@app.command()
def delete(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Delete a job that is at its end, with all it has made."""
    with connect(url) as client:
        job = client.jobs.resolve(job)
        client.jobs.delete(job)
    if as_json:
        print_json({"id": job, "deleted": True})
    else:
        print(f"{job}: deleted")


def job_or_file(what: str, job: str | None, file: Path | None) -> dict[str, str] | None:
    """Weights as a spec names them."""
    if job and file:
        raise typer.BadParameter(f"give --{what}-job or --{what}-file, not both")
    return {"job": job} if job else specs.weights_file(file) if file else None


def read_source(client: Crosskd, source: str) -> dict[str, Any]:
    if source in specs.OF_WEIGHTS and not Path(source).is_file():
        return {"kind": source, "spec": {}}
    return specs.read_job(Path(source)) if specs.is_file(source) else read_preset(client, source)


def finish(job: Job, as_json: bool) -> None:
    """Say how a job ended, by text or JSON, and by exit code."""
    figure = best(job)
    if as_json:
        print_json(job)
    else:
        print(f"{job.id}: {job.status}" + (f", {figure}" if figure else ""))
    if job.status != "succeeded":
        for line in tables.failure_lines(job):
            print(line, file=sys.stderr)
        raise typer.Exit(FAILED)
