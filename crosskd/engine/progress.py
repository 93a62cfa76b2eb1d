"""One live line on the terminal for a training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from crosskd.engine.callbacks import Callback, Phase, Run, TrainResult
from crosskd.structures import Evaluation


class ProgressLine(Callback):
    """Step, loss, speed and time left, rewritten in place; each evaluation as a line that stays."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    @classmethod
    @contextlib.contextmanager
    def on(cls, console: Console) -> Iterator[ProgressLine]:
        """The line while the context lasts; without a terminal, only what stays is printed."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
            yield cls(progress, progress.add_task("preparing", total=None, now=""))

    def on_phase(self, run: Run, phase: Phase) -> None:
        total = run.total_steps or None
        self._progress.update(self._task, description=phase.replace("_", " "), total=total, completed=run.step)

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        left = "" if run.eta_seconds is None else f", {run.eta_seconds / 60:.1f} min left"
        now = f"loss {values['loss']:.3f}, {values['steps_per_second']:.2f} steps/s{left}"
        self._progress.update(self._task, completed=run.step, now=now)

    def on_progress(self, run: Run) -> None:
        self._progress.update(self._task, completed=run.step)

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        shown = "  ".join(f"{name} {evaluation.metrics[name]:.3f}" for name in ("AP", "AP50", "AP75"))
        self._progress.console.print(f"{evaluation.model} after step {evaluation.step}: {shown}", highlight=False)

    def on_end(self, run: Run, result: TrainResult) -> None:
        description = "stopped early" if result.stopped_early else "done"
        self._progress.update(self._task, description=description, completed=run.step, now="")
