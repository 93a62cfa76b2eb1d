"""The callback that keeps the records which trackers follow. A tracker is never waited for, and no error leaves it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from crosskd.engine.callbacks import Callback, Run
from crosskd.spec.results.files import FileKind
from crosskd.structures import Evaluation
from crosskd.weights.files import File
from wire.scalars import encode_non_finite
from worker.tracking.files import Link, Points, Writer

logger = logging.getLogger("worker.training.run")  # which the job's log hears

# Those that stay: checkpoints are pruned, and of each evaluation's own files there may be thousands.
LINKED: frozenset[FileKind] = frozenset({"weights", "log", "manifest", "onnx", "matches", "detections"})
UNMEASURED = -1.0  # of COCO's numbers: there is nothing to measure


class TrackingCallback(Callback):
    """Notes points, the numbers of evaluations as `student/AP`, and finished files."""

    def __init__(self, records: Path, limit: int) -> None:
        self._writer = Writer(records, limit)

    @override
    def on_log(self, run: Run, values: dict[str, float]) -> None:
        self._note(run.step, values)

    @override
    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        measured = {name: value for name, value in evaluation.metrics.items() if value != UNMEASURED}
        self._note(evaluation.step, {f"{evaluation.model}/{name}": value for name, value in measured.items()})

    @override
    def on_file(self, run: Run, file: File) -> None:
        if file.kind in LINKED:
            self._writer.write(Link(name=file.name))

    def _note(self, step: int, values: dict[str, float]) -> None:
        spelt = {name: encode_non_finite(value) for name, value in values.items()}
        self._writer.write(Points(step=step, at=datetime.now(UTC), values=spelt))

    def close(self) -> None:
        """No more records."""
        if self._writer.left_out:
            logger.warning(
                "%d points are in no tracker: the records for trackers found no room on the disk, or were more than "
                "CROSSKD_SPOOL_MEGABYTES of the worker",
                self._writer.left_out,
            )
        self._writer.close()
