"""`log.txt`: the life of a run in lines for people."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from crosskd.engine.callbacks import Callback, Phase, Run, TrainResult
from crosskd.spec import registry
from crosskd.spec.results.files import BEST_FILES, EVALUATION_KINDS
from crosskd.structures import Evaluation
from crosskd.weights.files import File

log = logging.getLogger("crosskd.runs.train")

_PHASES = {
    "preparing": "preparing data and models",
    "evaluating_teacher": "evaluating the teacher",
    "training": "training",
    "evaluating": "evaluating the student",
    "exporting": "exporting",
    "importing": "reading the data set",
    "uploading": "writing the results",
}


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append what the core logs meanwhile to `path`."""
    logger = logging.getLogger("crosskd")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s  %(levelname)-7s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


class LogCallback(Callback):
    """Logs every event of a run."""

    def on_phase(self, run: Run, phase: Phase) -> None:
        log.info("%s", _PHASES[phase])

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        terms = "  ".join(
            f"{name} {value:.4f}" for name, value in values.items() if name.startswith(("loss", *registry.TERMS))
        )
        left = "" if run.eta_seconds is None else f"  {timedelta(seconds=round(run.eta_seconds))} left"
        log.info(
            "step %d of %d (epoch %.2f)  %s  lr %.3g  grad_norm %.3g  %.2f steps/s  waiting for data %.0f %%%s",
            run.step,
            run.total_steps,
            run.epoch,
            terms,
            values["lr"],
            values["grad_norm"],
            values["steps_per_second"],
            100 * values["data_wait"],
            left,
        )

    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in evaluation.metrics.items())
        log.info(
            "the %s after step %d on %d images, at most %d detections each: %s%s",
            evaluation.model,
            evaluation.step,
            evaluation.images,
            evaluation.max_detections,
            numbers,
            "  (best so far)" if evaluation.best else "",
        )
        if evaluation.boxes_left_out:
            log.warning(
                "AP does not count %d of the %d boxes of the ground truth, which have no size or lie outside their "
                "image; with `as_is: true` (of the evaluation) it is plain pycocotools', which counts them",
                evaluation.boxes_left_out,
                evaluation.boxes + evaluation.boxes_left_out,
            )

    def on_file(self, run: Run, file: File) -> None:
        if file.kind == "weights":
            log.info("wrote %s (step %d)", file.name, file.step)
        elif file.kind not in (*EVALUATION_KINDS, *BEST_FILES):  # their evaluation has a line
            log.info("wrote %s", file.name)

    def on_end(self, run: Run, result: TrainResult) -> None:
        if result.stopped_early:
            log.info("stopped early after step %d of %d: %s", result.steps, run.total_steps, result.stopped_early)
        log.info("done after %d steps: best AP %.4f, at step %d", result.steps, result.best_ap, result.best_step)
