"""Sweeps: does distilling help, and which way does best?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from client import sweeps as orders
from client.commands.shared import (
    FAILED,
    AsJson,
    AtTheEnd,
    SweepId,
    Url,
    connect,
    goes_on,
    print_json,
    progress_console,
    read_preset,
    show_all,
    tell_notes,
    terminal_width,
    warn,
    wide_console,
)
from client.references import is_beginning, resolved_in
from client.sdk import Crosskd
from client.terminal import sweep_tables, sweep_watch
from client.terminal.visible import visible
from wire.sweeps import Sweep, SweepDryRun

app = typer.Typer()
sweeps_app = typer.Typer(help="List the sweeps, or look at one and steer it.", invoke_without_command=True)
app.add_typer(sweeps_app, name="sweeps")

Values = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Of the base: schedule.epochs=3")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the jobs and estimate their time; store nothing.")]


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="`base`, `arms`, `seeds`, …: docs/sweeps.md.")],
    data: Annotated[Path | None, typer.Option(help="The data folder of the base, as `submit` takes it.")] = None,
    values: Values = [],  # noqa: B006 - typer's own form
    dry_run: DryRun = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end, and print its answer.")] = False,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Post a sweep and print its id."""
    with connect(url) as client:
        order = _with_ids(client, orders.read_order(file, partial(read_preset, client), data=data, overrides=values))
        if dry_run:
            _show_plan(client.sweeps.dry_run(order), as_json)
            return
        created = client.sweeps.create(order)
        tell_notes(created.notes)
        warn(created.warnings)
        if not as_json:
            print(created.id, flush=True)
        if watch:
            _follow(client, created.id, as_json)
        elif as_json:
            print_json(created)


@app.command()
def distill(
    data: Annotated[Path, typer.Option(help="A folder with train.json, val.json, images/; or as COCO lays it out.")],
    student: Annotated[str, typer.Option(metavar="PRESET|FILE", help="What to train.")] = "demo_crosskd",
    teacher: Annotated[
        str, typer.Option(metavar="PRESET|FILE|JOB", help="What to train first; or weights, of a job or in a file.")
    ] = "demo_teacher",
    arm: Annotated[
        list[str], typer.Option("--arm", metavar="METHOD", help="crosskd, pkd, …, or several with +; may be repeated.")
    ] = ["crosskd"],  # noqa: B006
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="How many trainings of each; below 2 nothing is shown.")
    ] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every training; default: the presets'.")] = None,
    teacher_epochs: Annotated[int | None, typer.Option(min=1, help="Of the teacher's training.")] = None,
    values: Values = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Default: the data folder's.")] = None,
    dry_run: DryRun = False,
    as_json: AtTheEnd = False,
    url: Url = "",
) -> None:
    """Answer whether distilling helps: train a teacher, the student alone and distilled, compare, and say so."""
    with connect(url) as client:
        order = orders.distillation(
            partial(read_preset, client),
            name=name or f"distill {data.absolute().name}"[:100],
            student=student,
            teacher=client.jobs.resolve(teacher) if is_beginning(teacher) else teacher,
            data=data,
            arms=arm,
            seeds=seeds,
            epochs=epochs,
            teacher_epochs=teacher_epochs,
            overrides=values,
        )
        order = _with_ids(client, order)
        plan = client.sweeps.dry_run(order)  # the data are looked at before anything is stored
        if dry_run:
            _show_plan(plan, as_json)
            return
        warn(plan.warnings)
        tell_notes([*plan.notes, *sweep_tables.plan_lines(plan)])
        created = client.sweeps.create(order)
        if not as_json:
            print(created.id, flush=True)
        _follow(client, created.id, as_json)


@sweeps_app.callback()
def list_sweeps(context: typer.Context, as_json: AsJson = False, url: Url = "") -> None:
    """List the sweeps, newest first; with a verb, do that."""
    if context.invoked_subcommand is not None:
        return
    with connect(url) as client:
        found = list(client.sweeps.list())
    show_all(found, sweep_tables.sweeps_table, as_json)


@sweeps_app.command()
def show(sweep: SweepId, as_json: AsJson = False, url: Url = "") -> None:
    """Show a sweep: its jobs, what each arm has reached, and the verdicts."""
    with connect(url) as client:
        found = client.sweeps.get(sweep)
        if as_json:
            print_json(found)
            return
        print(visible(f"{found.id}  {found.name}  {found.status}"))
        screen = wide_console()
        screen.print(sweep_tables.children_table(found))
        screen.print()
        sweep_watch.show(found, screen, client.base_url, terminal_width())


@sweeps_app.command()
def watch(sweep: SweepId, as_json: AtTheEnd = False, url: Url = "") -> None:
    """Follow a sweep to its end; exit code 0 if all of its jobs succeed."""
    with connect(url) as client:
        _follow(client, client.sweeps.resolve(sweep), as_json)


@sweeps_app.command()
def cancel(sweep: SweepId, as_json: AsJson = False, url: Url = "") -> None:
    """Discard every job that has not ended."""
    with connect(url) as client:
        _acted(client.sweeps.cancel(sweep), as_json)


@sweeps_app.command()
def pause(sweep: SweepId, as_json: AsJson = False, url: Url = "") -> None:
    """Free the devices; `resume` lets the jobs go on from there."""
    with connect(url) as client:
        _acted(client.sweeps.pause(sweep), as_json)


@sweeps_app.command()
def resume(sweep: SweepId, as_json: AsJson = False, url: Url = "") -> None:
    """Queue the paused jobs again."""
    with connect(url) as client:
        _acted(client.sweeps.resume(sweep), as_json)


@sweeps_app.command()
def retry(sweep: SweepId, as_json: AsJson = False, url: Url = "") -> None:
    """Post anew what failed or was cancelled, from its last checkpoint."""
    with connect(url) as client:
        _acted(client.sweeps.retry(sweep), as_json)


@sweeps_app.command()
def delete(sweep: SweepId, as_json: AsJson = False, url: Url = "") -> None:
    """Delete a sweep whose jobs have all ended, with the jobs and all they have made."""
    with connect(url) as client:
        sweep = client.sweeps.resolve(sweep)
        client.sweeps.delete(sweep)
    if as_json:
        print_json({"id": sweep, "deleted": True})
    else:
        print(f"{sweep}: deleted")


def _with_ids(client: Crosskd, order: dict[str, Any]) -> dict[str, Any]:
    """The order with ids in place of what the weights of its base call their jobs."""
    base = resolved_in({"spec": order.get("base")}, client.jobs.resolve)["spec"]
    return order if base is None else {**order, "base": base}


def _acted(sweep: Sweep, as_json: bool) -> None:
    if as_json:
        print_json(sweep)
        return
    told = ", ".join(f"{count} {status}" for status, count in sorted(sweep.jobs.items()))
    print(f"{sweep.id}: {sweep.status} ({told})")


def _show_plan(plan: SweepDryRun, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    tell_notes([*plan.notes, *sweep_tables.plan_lines(plan)])
    warn(plan.warnings)
    show_all(plan.jobs, sweep_tables.plan_table, as_json=False)


def _follow(client: Crosskd, sweep: str, as_json: bool) -> None:
    try:
        ended = sweep_watch.follow(client, sweep, progress_console(as_json))
    except KeyboardInterrupt:
        goes_on("sweeps ", sweep)
        raise
    if as_json:
        print_json(ended)
    else:
        sweep_watch.show(ended, wide_console(), client.base_url, terminal_width())
    if ended.status != "finished":
        raise typer.Exit(FAILED)
