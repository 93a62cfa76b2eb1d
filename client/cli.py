"""`crosskd`: the service from the command line.

Exit codes: 0 well, 1 refused or failed (each fault on a line of its own), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from api.schemas.jobs import Job
from client import audit as audits
from client import specs, tables
from client.errors import ClientError
from client.home import Home, default_home, read_owner
from client.sdk import DEFAULT_URL, Client
from client.signals import on_signals
from client.watch import follow
from crosskd.errors import CrossKDError

FAILED = 1
INTERRUPTED = 130

app = typer.Typer(
    help="Distil object detectors with CrossKD, as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Url = Annotated[str, typer.Option("--url", envvar="CROSSKD_URL", help="Address; default: the stack of this home.")]
JobId = Annotated[str, typer.Argument(help="A job's id.", metavar="JOB")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's own JSON.")]


def main() -> None:
    """The entry point: errors that are the user's to mend become lines, never tracebacks."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        app()
    except ClientError as error:
        for line in error.lines():
            errors.print(line)
        sys.exit(FAILED)
    except (CrossKDError, TimeoutError) as error:
        errors.print(str(error))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `crosskd jobs | head` is no failure


# --- the service on this machine -------------------------------------------------------------------------------------


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(envvar="CROSSKD_HOME", help="State folder; default ./.crosskd.")] = None,
    host: Annotated[
        str, typer.Option(envvar="CROSSKD_HOST", help="Any but loopback needs an API token: `crosskd token create`.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: CROSSKD_PORT, or 8470.")] = None,
) -> None:
    """Run the whole service in the foreground until Ctrl-C: broker, database, API and one worker."""
    from client.local import Stack  # here: a client without the `local` extra has the other verbs

    stack = Stack(Home(home or default_home()), host=host, port=port, say=print)
    on_signals(stack.request_stop)
    print("Starting …", flush=True)
    with stack:
        print(f"CrossKD is at {stack.url} (documentation: {stack.url}/docs). State: {stack.home.path}")
        print("Ctrl-C stops it; a running job goes on at the next start.", flush=True)
        stack.wait()
        print("Stopping …", flush=True)


@app.command()
def demo(
    home: Annotated[Path | None, typer.Option(help="State folder; default: `demo` in CROSSKD_HOME.")] = None,
) -> None:
    """Train a teacher, a student alone and a student with CrossKD through the service, and compare them."""
    from client.demo import run  # here: needs the `local` extra

    run(home or default_home() / "demo")


@data_app.command("demo")
def data_demo(folder: Annotated[Path, typer.Argument(help="Made, or filled if it is empty.")]) -> None:
    """Draw the demo data set."""
    from client.demo import write_data  # here: needs the `core` extra

    write_data(folder)
    print(folder)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def token(context: typer.Context) -> None:
    """API tokens of this home's database: `create NAME --scope read|write|admin`, `list`, `revoke ID`."""
    from client.tokens import manage  # here: needs the `local` extra

    raise typer.Exit(manage(Home(default_home()), context.args))


@app.command()
def audit(
    verify: Annotated[bool, typer.Option("--verify", help="Read every file, and compare its sha256.")] = False,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Compare the service's rows with its files, both ways; exit code 1 if they differ. Needs an admin's token."""
    with connect(url) as client:
        agrees = audits.show(client.audit(verify=verify), as_json=as_json)
    raise typer.Exit(0 if agrees else FAILED)


# --- jobs ------------------------------------------------------------------------------------------------------------


@app.command()
def submit(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SPEC.yaml|PRESET|KIND",
            help="A job or its spec; a preset; or `evaluate` or `export`, from nothing.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Default: the file's or the preset's name.")] = None,
    kind: Annotated[str | None, typer.Option(help="train, distill, evaluate or export; default: by the spec.")] = None,
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE")] = [],  # noqa: B006 - typer's own form
    priority: Annotated[
        int | None, typer.Option(help="1 (last) to 9 (first) of the jobs that wait; default: 5.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with train.json, val.json and images/.")] = None,
    teacher_job: Annotated[str | None, typer.Option(metavar="JOB", help="The teacher: a job's best weights.")] = None,
    teacher_file: Annotated[Path | None, typer.Option(help="The teacher: a file in one of the data roots.")] = None,
    weights_job: Annotated[
        str | None, typer.Option(metavar="JOB", help="Evaluate or export: its best weights.")
    ] = None,
    weights_file: Annotated[Path | None, typer.Option(help="Evaluate or export: a file in one of the roots.")] = None,
    values: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="schedule.epochs=3")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it with every default; store nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: Url = "",
) -> None:
    """Post a job and print its id."""
    teacher = job_or_file("teacher", teacher_job, teacher_file)
    weights = job_or_file("weights", weights_job, weights_file)
    with connect(url) as client:
        job = specs.complete(
            read_source(client, source),
            name=name or Path(source).stem,
            kind=kind,
            labels=label,
            priority=priority,
            data=data,
            teacher=teacher,
            weights=weights,
            overrides=values,
        )
        if dry_run:
            resolved = client.dry_run(job).model_dump(mode="json", exclude={"spec_version"})  # it can be posted again
            print(yaml.safe_dump(resolved, sort_keys=False), end="")
            return
        created = client.create_job(job)
        print(created.id, flush=True)
        if watch:
            finish(follow(client, created.id, console()))


@app.command("jobs")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = [],  # noqa: B006
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """List the jobs, newest first."""
    with connect(url) as client:
        jobs = list(client.jobs(status=status, labels=dict(specs.pair(text) for text in label)))
    show_all(jobs, tables.jobs_table, as_json)


@app.command()
def show(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Show a job: state, history, attempts, and why it failed if it did."""
    with connect(url) as client:
        answer = client.job(job)
    print(answer.model_dump_json(indent=2) if as_json else "\n".join(tables.job_lines(answer)))


@app.command()
def watch(job: JobId, url: Url = "") -> None:
    """Follow a job to its end; exit code 0 if it succeeds."""
    with connect(url) as client:
        finish(follow(client, job, console()))


@app.command()
def cancel(job: JobId, url: Url = "") -> None:
    """Discard a job."""
    with connect(url) as client:
        print(f"{job}: {client.cancel(job).status}")


@app.command()
def stop(job: JobId, url: Url = "") -> None:
    """End a training early and keep its best: it is evaluated, and succeeds."""
    with connect(url) as client:
        print(f"{job}: {client.stop(job).status}")


@app.command()
def pause(job: JobId, url: Url = "") -> None:
    """Free a training's device; `resume` lets it go on from there."""
    with connect(url) as client:
        print(f"{job}: {client.pause(job).status}")


@app.command()
def resume(job: JobId, url: Url = "") -> None:
    """Queue a paused job again."""
    with connect(url) as client:
        print(f"{job}: {client.resume(job).status}")


@app.command()
def retry(job: JobId, url: Url = "") -> None:
    """Post a failed or cancelled job anew, from its last checkpoint, and print the new id."""
    with connect(url) as client:
        print(client.retry(job).id)


@app.command()
def delete(job: JobId, url: Url = "") -> None:
    """Delete a job that is at its end, with all it has made."""
    with connect(url) as client:
        client.delete(job)
    print(f"{job}: deleted")


# --- what a job made -------------------------------------------------------------------------------------------------


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
        rows = list(client.metrics(job, key=key, since_step=since_step, attempt=attempt))
    show_all(rows, tables.metrics_table, as_json)


@app.command()
def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each line as it comes.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="So many of the last lines.")] = 200,
    url: Url = "",
) -> None:
    """Print the end of a job's log; the whole of it is the artifact log.txt."""
    with connect(url) as client:
        for line in client.logs(job, tail=tail, follow=follow):
            print(line, flush=follow)


@app.command()
def evaluations(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """Print COCO's figures for every evaluated checkpoint."""
    with connect(url) as client:
        rows = client.evaluations(job)
    show_all(rows, tables.evaluations_table, as_json)


@app.command()
def artifacts(job: JobId, as_json: AsJson = False, url: Url = "") -> None:
    """List the files a job published."""
    with connect(url) as client:
        items = client.artifacts(job)
    show_all(items, tables.artifacts_table, as_json)


@app.command()
def download(
    job: JobId,
    name: Annotated[str | None, typer.Argument(help="An artifact; default: the best student's weights.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file or a folder.")] = Path(),
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

        path = (
            client.download(job, name, output, on_bytes) if name is not None else client.weights(job, output, on_bytes)
        )
    print(path)


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Print this one as YAML.")] = None, url: Url = "") -> None:
    """List the ready-made configurations."""
    with connect(url) as client:
        if name is None:
            show_all(client.presets(), tables.presets_table, as_json=False)
        else:
            print(yaml.safe_dump(read_preset(client, name), sort_keys=False), end="")


# --- the core alone, without any service ------------------------------------------------------------------------------

# Every argument is the core's own, `--help` too.
AS_GIVEN = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a detector on this machine, alone or distilled, without the service."""
    become_core("train", context.args)


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Measure COCO AP of a weights file on this machine, without the service."""
    become_core("evaluate", context.args)


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def export(context: typer.Context) -> None:
    """Write a weights file as ONNX, checked against PyTorch, on this machine, without the service."""
    become_core("export", context.args)


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Translate weights between this project, MMDetection and torchvision, on this machine, without the service."""
    become_core("convert", context.args)


def become_core(verb: str, arguments: list[str]) -> None:
    """Go on as `python -m crosskd`: its exit code and its signals are this command's."""
    command = [sys.executable, "-m", "crosskd", verb, *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - an argument list, no shell


# --- helpers ---------------------------------------------------------------------------------------------------------


def connect(url: str) -> Client:
    """A client of `url`, or of the stack that runs on this home, or of the default address."""
    if not url:
        owner = read_owner(default_home())
        url = owner.url if owner else DEFAULT_URL
    return Client(url, token=os.environ.get("CROSSKD_TOKEN"))  # never an argument: those are seen by `ps`


def job_or_file(what: str, job: str | None, file: Path | None) -> dict[str, str] | None:
    """Weights as a spec names them."""
    if job and file:
        raise typer.BadParameter(f"give --{what}-job or --{what}-file, not both")
    return {"job": job} if job else {"file": str(file.absolute())} if file else None


def read_source(client: Client, source: str) -> dict[str, Any]:
    if source in specs.OF_WEIGHTS and not Path(source).is_file():
        return {"kind": source, "spec": {}}
    return specs.read_job(Path(source)) if specs.is_file(source) else read_preset(client, source)


def read_preset(client: Client, name: str) -> dict[str, Any]:
    found = {preset.name: preset for preset in client.presets()}
    if name not in found:
        raise ClientError(f"There is no preset or file {name!r}.", remedy=f"Presets: {', '.join(sorted(found))}.")
    return {"kind": found[name].kind, "spec": found[name].spec}


def console() -> Console:
    return Console(highlight=False, markup=False)


def show_all(items: Iterable[BaseModel], table: Callable[[Iterable[Any]], Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps([item.model_dump(mode="json") for item in items], indent=2))
    else:
        # A file or a pipe has no width to fit into: lines stay whole.
        width = None if sys.stdout.isatty() else 10_000
        Console(highlight=False, markup=False, width=width, soft_wrap=True).print(table(items))


def finish(job: Job) -> None:
    """Say how a job ended, by text and by exit code."""
    print(f"{job.id}: {job.status}" + (f", AP {job.best_ap:.3f}" if job.best_ap is not None else ""))
    if job.status != "succeeded":
        for line in tables.failure_lines(job):
            print(line, file=sys.stderr)
        raise typer.Exit(FAILED)


if __name__ == "__main__":
    main()
