"""What a run tells whoever listens: the state of the run and the moments of its life.

Callbacks are called in the order in which they were given. An exception in one ends the run: a metric that
cannot be delivered is the callback's own matter to bear or to raise.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crosskd.engine.stop_reason import StopReason
from crosskd.structures import Evaluation
from crosskd.weights.files import File

Phase = Literal["preparing", "evaluating_teacher", "training", "evaluating", "exporting", "importing", "uploading"]


@dataclass
class Run:
    """The live state of a training or any other run. Callbacks read it; the loop and `crosskd.runs` write it."""

    config: Any  # the TrainConfig; where nothing is trained, an EvaluateConfig, ExportConfig or ImportConfig
    workdir: Path
    stop: threading.Event = field(default_factory=threading.Event)
    finish: threading.Event = field(default_factory=threading.Event)
    phase: Phase = "preparing"
    step: int = 0  # optimizer steps taken
    saved_step: int = 0  # of the newest checkpoint; 0 while there is none
    total_steps: int = 0
    steps_per_epoch: int = 0
    epoch_index: int = 0  # the sampler's position: this epoch ...
    batches_done: int = 0  # ... and the batches taken from it
    loss: float | None = None  # of the latest step that was read (`steps.py`)
    best_ap: float | None = None
    best_step: int | None = None
    steps_per_second: float | None = None
    eta_seconds: float | None = None
    stopped_early: str = ""  # why the run ends before its last step, and as a success

    @property
    def epoch(self) -> float:
        """Epochs trained so far, with the fraction of the one in progress."""
        return self.step / self.steps_per_epoch if self.steps_per_epoch else 0.0

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def request_stop(self) -> None:
        """Ask the run to finish its step, write a checkpoint and raise `Interrupted`. Any thread may ask."""
        self.stop.set()

    @property
    def finishing(self) -> bool:
        return self.finish.is_set()

    def request_finish(self) -> None:
        """Ask a training to finish its step and to end as a success: evaluated, with its best student delivered.

        Any thread may ask. A stop that is requested as well goes first.
        """
        self.finish.set()


@dataclass(frozen=True)
class TrainResult:
    """What a finished training leaves behind. `best_ap` is -1 where there was nothing to evaluate on."""

    best_ap: float
    best_step: int
    steps: int
    manifest: dict[str, Any]
    best_weights: Path
    last_weights: Path
    stopped_early: str = ""  # why, in words, where the run ended before its last step
    reason: StopReason = StopReason.FINISHED


class Callback:
    """Base class: every method does nothing. Override what you want to hear of."""

    def on_start(self, run: Run) -> None:
        """Once, before anything is built."""

    def on_phase(self, run: Run, phase: Phase) -> None:
        """`run.phase` has just become `phase`."""

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        """Every `log_every` optimizer steps and at the last one: losses, `lr`, `grad_norm` and speeds."""

    def on_progress(self, run: Run) -> None:
        """`run.step` has moved on in a phase without figures: the batches of an evaluation or an export."""

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        """The teacher or the student has been evaluated on the validation split."""

    def on_file(self, run: Run, file: File) -> None:
        """`file` stands complete. Curves come behind their evaluation, and the manifest last of all.

        Older checkpoints may be pruned right after this call.
        """

    def on_end(self, run: Run, result: TrainResult) -> None:
        """Once, after the last file is written. Not called when the run ends with an error."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)

    def on_start(self, run: Run) -> None:
        for callback in self._callbacks:
            callback.on_start(run)

    def on_phase(self, run: Run, phase: Phase) -> None:
        run.phase = phase
        for callback in self._callbacks:
            callback.on_phase(run, phase)

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        for callback in self._callbacks:
            callback.on_log(run, values)

    def on_progress(self, run: Run) -> None:
        for callback in self._callbacks:
            callback.on_progress(run)

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        for callback in self._callbacks:
            callback.on_evaluation(run, evaluation)

    def on_file(self, run: Run, file: File) -> None:
        for callback in self._callbacks:
            callback.on_file(run, file)

    def on_end(self, run: Run, result: TrainResult) -> None:
        for callback in self._callbacks:
            callback.on_end(run, result)
