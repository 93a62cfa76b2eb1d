"""A job's progress on the screen: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from client.sdk import Crosskd
from client.terminal.visible import visible
from wire.jobs import Job

LINE_SECONDS = 10.0  # between two plain lines of one phase
PHASES = {
    "preparing": "preparing",
    "evaluating_teacher": "evaluating the teacher",
    "training": "training",
    "evaluating": "evaluating",
    "exporting": "exporting",
    "importing": "reading the data set",
    "uploading": "uploading",
}


def follow(client: Crosskd, job: str, console: Console, *, interval: float = 0.5, timeout: float | None = None) -> Job:
    """Show a job until it ends, and return it as it ended."""
    if not console.is_terminal:
        return client.jobs.wait(job, on_progress=_lines(console), interval=interval, timeout=timeout)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        row = bars.add_task("", total=None, state="")

        def show(current: Job) -> None:
            done, total = _steps(current)
            bars.update(
                row,
                description=visible(current.name),
                completed=done,
                total=total,
                state=visible(describe(current)),
            )

        return client.jobs.wait(job, on_progress=show, interval=interval, timeout=timeout)


def describe(job: Job) -> str:
    """The state in a few words: `training · step 120/300 · loss 1.234 · ETA 0:42`."""
    progress = job.progress
    parts: list[str]
    if job.status != "running" or progress is None:
        parts = [job.status]
        if job.status in ("queued", "paused") and len(job.attempts) > 0:
            parts.append(job.transitions[-1].reason)
        if job.status == "waiting" and job.waiting:
            parts.append(job.waiting)
    else:
        waiting = [f"waiting for {progress.waiting_for}"] if progress.waiting_for else []
        parts = [PHASES[progress.phase], *waiting, f"step {progress.step}/{progress.total_steps}"]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        if progress.eta_seconds is not None:
            parts.append(f"ETA {clock(progress.eta_seconds)}")
    if (figure := best(job)) is not None:
        parts.append(figure)
    return " · ".join(parts)


def best(job: Job) -> str | None:
    """The AP that a job has reached: of a training the best of its evaluations, which need not be the last."""
    if job.best_ap is None:
        return None
    return f"{'' if job.kind == 'evaluate' else 'best '}AP {'-' if job.best_ap < 0 else f'{job.best_ap:.3f}'}"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _steps(job: Job) -> tuple[float, float | None]:
    if job.progress is None or not job.progress.total_steps:
        return 0.0, None  # a bar that only pulses: the length is not known yet
    if job.status == "succeeded":
        return job.progress.total_steps, job.progress.total_steps
    return job.progress.step, job.progress.total_steps


def _lines(console: Console) -> Callable[[Job], None]:
    last_state: tuple[str, str] | None = None
    last_line = ""
    last_time = 0.0

    def show(job: Job) -> None:
        nonlocal last_state, last_line, last_time
        state = (job.status, f"{job.progress.phase} {job.progress.waiting_for}" if job.progress else "")
        line = visible(f"{job.name}: {describe(job)}")
        now = time.monotonic()
        if line == last_line or (state == last_state and now - last_time < LINE_SECONDS):
            return
        last_state, last_line, last_time = state, line, now
        console.print(line)

    return show
