"""`crosskd demo`: a teacher, a student alone and a student with CrossKD, trained through the service and compared.

Everything goes the way of any other client: jobs are posted, watched and downloaded over HTTP.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from client import specs
from client.errors import ClientError
from client.sdk import Client
from client.signals import on_signals
from client.stack.home import Home
from client.stack.stack import Stack
from client.tables import failure_lines, number
from client.watch import clock, follow
from crosskd.data.demo import write_demo
from crosskd.spec.config import StudentConfig
from crosskd.spec.shapes import parameter_count
from wire.artifacts import BEST_WEIGHTS
from wire.jobs import Job, Preset
from wire.reports import CocoMetrics

# The whole size of the demo: under six minutes on two CPU cores.
IMAGES, VAL_IMAGES, PIXELS, CLASSES = 1000, 200, 128, 10
TEACHER, STUDENT, CROSSKD = "demo_teacher", "demo_student", "demo_crosskd"
EPOCHS = {TEACHER: 8, STUDENT: 6, CROSSKD: 6}  # fewer than the presets', which benchmarks/gain.py measures
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


def run(home: Path) -> None:
    """Run the demo with its state in `home`. Raises: `ClientError`; `KeyboardInterrupt` after all has been stopped."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
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
    with stack, Client(stack.url) as client:
        console.print(f"It answers at {stack.url}; its state is in {stack.home.path}.")
        try:
            compare(client, stack.home / "data" / "demo", console)
        except KeyboardInterrupt:
            console.print("Stopping …")
            raise
        console.print(f"Done in {clock(time.monotonic() - begin)}.")


def compare(client: Client, data: Path, console: Console) -> None:
    """Train the three and compare them, on a service that may read the folder `data`."""
    console.print(f"Drawing {IMAGES} + {VAL_IMAGES} images of {CLASSES} kinds of glyphs …")
    section = write_data(data)
    for left in client.jobs(status=["waiting", "queued", "running"]):
        client.cancel(left.id)  # of a demo that was interrupted: it would be trained first
    presets = {preset.name: preset for preset in client.presets()}
    teacher = train(client, presets[TEACHER], section, console)
    alone = train(client, presets[STUDENT], section, console)
    distilled = train(client, presets[CROSSKD], section, console, teacher={"job": teacher.id, "checkpoint": "best"})
    rows = [row(client, job, ROWS[job.name]) for job in (teacher, alone, distilled)]
    console.print()
    console.print(table(rows))
    console.print(verdict(*(row.metrics.AP for row in rows)))
    console.print()
    verify_download(client, distilled, rows[-1].metrics.AP, data.parent / "student.safetensors", console)


def write_data(folder: Path) -> dict[str, Any]:
    """Draw the demo set into `folder`, unless it is there already; the `data` of a spec."""
    try:
        config = write_demo(folder.absolute(), train=IMAGES, val=VAL_IMAGES, size=PIXELS, classes=CLASSES)
    except OSError as error:
        raise DemoFailed(f"Cannot write the data set to {folder}: {error.strerror or error}.") from error
    return config.model_dump(mode="json", exclude_unset=True)


def train(
    client: Client, preset: Preset, data: dict[str, Any], console: Console, teacher: dict[str, str] | None = None
) -> Job:
    """Post one job, show it until it ends, and return it. Raises: `DemoFailed`."""
    epochs = EPOCHS[preset.name]
    overrides = [f"schedule.epochs={epochs}", f"evaluation.every_epochs={epochs}"]
    base = {"kind": preset.kind, "spec": {**preset.spec, "data": data}}
    job = specs.complete(base, name=preset.name, teacher=teacher, overrides=overrides)
    created = client.create_job(job)
    ended = follow(client, created.id, console)
    if ended.status != "succeeded":
        raise DemoFailed("\n".join([f"Job {ended.id} ({ended.name}) ended as {ended.status}.", *failure_lines(ended)]))
    return ended


def row(client: Client, job: Job, name: str) -> Row:
    """What a job reached: its best evaluation, the size of its weights, its speed."""
    best = [item for item in client.evaluations(job.id) if item.model == "student" and item.best][-1]
    size = next(item.size for item in client.artifacts(job.id) if item.name == BEST_WEIGHTS)
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


def verdict(teacher: float, alone: float, distilled: float) -> str:
    """How much of the way from the student to its teacher CrossKD has gone."""
    gain = f"CrossKD: {100 * (distilled - alone):+.1f} AP points over the student alone"
    if teacher <= alone:
        return f"{gain}; the teacher is no better than the student alone, so there is no gap to close."
    return f"{gain}: {100 * (distilled - alone) / (teacher - alone):.0f} % of the gap to the teacher closed."


def verify_download(client: Client, job: Job, expected: float, target: Path, console: Console) -> None:
    """Download the student and evaluate it again in a process that knows nothing of the service."""
    client.weights(job.id, target)  # compares the sha256 itself
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
