"""`crosskd demo`: a teacher, a student alone and a student with CrossKD, trained through the service and compared.

Everything goes the way of any other client, the road of `crosskd distill`: a sweep is posted, watched and answered, and
its student downloaded, over HTTP.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from client import sweeps
from client.commands.shared import print_json, read_preset
from client.errors import ClientError
from client.sdk import Crosskd
from client.signals import on_signals
from client.stack.home import Home
from client.stack.services import HOST, address, configured_port
from client.stack.stack import Stack
from client.terminal.sweep_tables import answer_lines
from client.terminal.sweep_watch import follow
from client.terminal.tables import failure_lines, number
from client.terminal.watch import clock
from crosskd.data.demo import write_demo
from crosskd.spec.config import StudentConfig
from crosskd.spec.weights.shapes import parameter_count
from wire.artifacts import BEST_WEIGHTS
from wire.jobs import Job
from wire.reports import CocoMetrics
from wire.sweeps import Sweep

# The whole size of the demo: under six minutes on two CPU cores.
IMAGES, VAL_IMAGES, PIXELS, CLASSES = 1000, 200, 128, 10
TEACHER, STUDENT, CROSSKD = "teacher", sweeps.ALONE, "crosskd"  # the latter two are the arms of the sweep
EPOCHS = {TEACHER: 8, CROSSKD: 6}  # fewer than the presets', which benchmarks/gain.py measures
ROWS = {TEACHER: "teacher", STUDENT: "student alone", CROSSKD: "student + CrossKD"}
SAME = 1e-6  # AP; the same weights on the same images give the same figure


class DemoFailed(ClientError):
    """A step of the demo failed, or its result was not reproduced."""


@dataclass(frozen=True)
class Row:
    """One line of the closing table."""

    name: str
    metrics: CocoMetrics
    parameters: int
    megabytes: float
    milliseconds: float | None


def run(home: Path, *, as_json: bool = False) -> None:
    """Run the demo with its state in `home`. `as_json`: its figures as JSON in the end, all words on standard error.

    Raises: `ClientError`; `KeyboardInterrupt` after all has been stopped.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True, stderr=as_json)
    begin = time.monotonic()
    stack = Stack(Home(home), port=0, notify=console.print)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            stack.request_stop()
            return
        interrupted = True
        raise KeyboardInterrupt

    on_signals(interrupt)
    console.print("Starting the service: Valkey, SQLite, API and worker …")
    with stack, Crosskd(stack.url) as client:
        console.print(f"It answers at {stack.url}, also in a browser; its state is in {stack.home.path}.")
        try:
            figures = compare(client, stack.home / "data" / "demo", console)
        except KeyboardInterrupt:
            console.print("Stopping …")
            raise
        console.print(f"Done in {clock(time.monotonic() - begin)}.")
    if as_json:
        print_json(figures)


def compare(client: Crosskd, data: Path, console: Console) -> dict[str, Any]:
    """Train the three and compare them, on a service that may read the folder `data`; the figures and files."""
    console.print(f"Drawing {IMAGES} + {VAL_IMAGES} images of {CLASSES} kinds of glyphs …")
    section = write_data(data)
    for left in client.jobs.list(status=["waiting", "queued", "running"]):
        client.jobs.cancel(left.id)  # of a demo that was interrupted: it would be trained first
    sweep = train(client, order(client, section), console)
    jobs = {child.arm or TEACHER: client.jobs.get(child.job) for child in sweep.children}
    rows = [row(client, jobs[name], told) for name, told in ROWS.items()]
    distilled = jobs[CROSSKD]
    console.print()
    console.print(table(rows))
    console.print(gain(*(row.metrics.AP for row in rows)))
    for line in answer_lines(sweep):
        console.print(line)
    report = data.parent / "report.html"  # a file, since the service ends with the demo
    report.write_text(client.sweeps.report(sweep.id), encoding="utf-8")
    console.print(f"The report, for a browser: {report}")
    home, later = shlex.quote(str(data.parent.parent)), address(HOST, configured_port())
    console.print(f"Its page, while `CROSSKD_HOME={home} crosskd up` runs: {later}/web/sweeps/{sweep.id}")
    console.print()
    weights = data.parent / "student.safetensors"
    verify_download(client, distilled, rows[-1].metrics.AP, weights, console)
    told = [{**asdict(row), "metrics": row.metrics.model_dump()} for row in rows]
    return {"rows": told, "answer": answer_lines(sweep), "report": str(report), "weights": str(weights)}


def write_data(folder: Path) -> dict[str, Any]:
    """Draw the demo set into `folder`, unless it is there already; the `data` of a spec."""
    try:
        config = write_demo(folder.absolute(), train=IMAGES, val=VAL_IMAGES, size=PIXELS, classes=CLASSES)
    except OSError as error:
        raise DemoFailed(f"Cannot write the data set to {folder}: {error.strerror or error}.") from error
    return config.model_dump(mode="json", exclude_unset=True)


def order(client: Crosskd, data: dict[str, Any]) -> dict[str, Any]:
    """The sweep of the demo, on the road of `crosskd distill`: one seed, for it is to end within minutes."""
    sweep = sweeps.distillation(
        partial(read_preset, client),
        name="demo",
        student="demo_crosskd",
        teacher="demo_teacher",
        data=None,
        arms=[CROSSKD],
        seeds=1,
        epochs=EPOCHS[CROSSKD],
        teacher_epochs=EPOCHS[TEACHER],
    )
    sweep["base"]["data"] = data
    for spec in (sweep["base"], sweep["teacher"]):
        spec["evaluation"] = {"every_epochs": spec["schedule"]["epochs"]}
    return sweep


def train(client: Crosskd, sweep: dict[str, Any], console: Console) -> Sweep:
    """Post the sweep, show it until it ends, and return it. Raises: `DemoFailed`."""
    ended = follow(client, client.sweeps.create(sweep).id, console)
    if ended.status == "finished":
        return ended
    lines = [f"Sweep {ended.id} ended as {ended.status}."]
    for child in ended.children:
        if child.status != "succeeded":
            lines += [
                f"Job {child.job} ({child.name}) ended as {child.status}.",
                *failure_lines(client.jobs.get(child.job)),
            ]
    raise DemoFailed("\n".join(lines))


def row(client: Crosskd, job: Job, name: str) -> Row:
    """What a job reached: its best evaluation, the size of its weights, its speed."""
    best = [item for item in client.jobs.evaluations(job.id) if item.model == "student" and item.best][-1]
    size = next(item.size for item in client.jobs.artifacts(job.id) if item.name == BEST_WEIGHTS)
    model = StudentConfig.model_validate(job.spec["student"]).model
    parameters = parameter_count(model, len(best.per_class))
    return Row(name, best.metrics, parameters, size / 1e6, best.milliseconds_per_image)


def table(rows: list[Row]) -> Table:
    result = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")  # 80 columns wide
    result.add_column("", no_wrap=True)
    for column in ("AP", "AP50", "AP75", "APs", "APm", "APl", "parameters", "MB", "ms/image"):
        result.add_column(column, justify="right", no_wrap=True)
    for item in rows:
        m = item.metrics
        figures = [number(value) for value in (m.AP, m.AP50, m.AP75, m.APs, m.APm, m.APl)]
        milliseconds = "" if item.milliseconds is None else f"{item.milliseconds:.1f}"
        result.add_row(item.name, *figures, f"{item.parameters:,}", f"{item.megabytes:.2f}", milliseconds)
    return result


def gain(teacher: float, alone: float, distilled: float) -> str:
    """How much of the way from the student to its teacher CrossKD has gone, here."""
    points = f"CrossKD: {100 * (distilled - alone):+.1f} AP points over the student alone"
    if teacher <= alone:
        return f"{points}; the teacher is no better than the student alone, so there is no gap to close."
    return f"{points}: {100 * (distilled - alone) / (teacher - alone):.0f} % of the gap to the teacher closed."


def verify_download(client: Crosskd, job: Job, expected: float, target: Path, console: Console) -> None:
    """Download the student and evaluate it again in a process that knows nothing of the service."""
    client.jobs.weights(job.id, target)  # compares the sha256 itself
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    console.print(f"Downloaded {target} ({target.stat().st_size:,} bytes, sha256 {sha256}: verified).")
    found = evaluate_afresh(target, job.spec)
    console.print(f"A fresh process loads it and measures AP {found:.6f}; the service said {expected:.6f}.")
    if abs(found - expected) > SAME:
        raise DemoFailed("These are not the same.", remedy="Please report this with the output above.")


def evaluate_afresh(weights: Path, spec: dict[str, Any]) -> float:
    """AP of a weights file on a spec's validation images, evaluated by the core alone. Raises: `DemoFailed`."""
    recipe = weights.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    val = spec["data"]["val"]
    command = [sys.executable, "-m", "crosskd", "evaluate", str(weights), "--recipe", str(recipe), "--json"]
    command += ["--annotations", val["annotations"], "--images", val["images"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"`{' '.join(command[2:])}` ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["metrics"]["AP"])
