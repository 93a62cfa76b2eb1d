"""What a run has reached so far: its evaluations, its best student, and the files and the manifest they become."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from crosskd.engine import distributed
from crosskd.engine.callbacks import Run
from crosskd.spec.config import EvaluationConfig, ModelConfig
from crosskd.spec.results.files import BEST_FILES, BEST_WEIGHTS, LAST_WEIGHTS, MANIFEST, BestKind, kind_of
from crosskd.structures import Evaluation
from crosskd.weights.files import File, file_digest, write_bytes, write_text
from crosskd.weights.native import write_weights

log = logging.getLogger(__name__)

State = dict[str, Tensor]


class Results:
    """Evaluations in order, and the weights of the best student: they travel in the checkpoint, so that a resume on
    another machine still delivers a best student from before it."""

    def __init__(
        self, workdir: Path, model: ModelConfig, classes: list[str], metadata: Mapping[str, str] | None = None
    ) -> None:
        """`metadata` goes into the weights files, beside what they say of themselves."""
        self.workdir, self.model, self.classes = workdir, model, classes
        self.metadata = dict(metadata or {})
        self.teacher: Evaluation | None = None
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.seconds_before = 0.0  # of the sittings that a resume goes on from
        self._best_state: State = {}
        # Matches and detections of the best student and of the teacher; on the main rank alone.
        self.files: dict[BestKind, bytes | None] = {}

    def add_teacher(self, evaluation: Evaluation) -> None:
        """Keep the teacher's evaluation."""
        self.teacher = evaluation.without_files()
        self.files |= {"teacher_matches": evaluation.matches, "teacher_detections": _packed(evaluation)}

    def add(self, evaluation: Evaluation, student: nn.Module) -> Evaluation:
        """Keep an evaluation, and the weights of `student` if it is the best so far. Returns it, `best` filled in.

        Where there is nothing to measure (AP -1), the latest counts as the best.
        """
        if evaluation.ap < 0 and not self.evaluations:
            log.warning("the validation split has nothing to measure: the best weights will be the latest")
        best = self.best is None or evaluation.ap > self.best.ap or evaluation.ap == self.best.ap < 0
        evaluation = replace(evaluation, best=best)
        numbers = evaluation.without_files()  # hundreds of curves would fill the checkpoints
        self.evaluations.append(numbers)
        if best:
            self.best = numbers
            self.files |= {"matches": evaluation.matches, "detections": _packed(evaluation)}
            self._best_state = {name: value.detach().cpu().clone() for name, value in student.state_dict().items()}
        return evaluation

    def out_of_patience(self, config: EvaluationConfig) -> str:
        """Why the student will hardly get better; empty while it may.

        It follows from the evaluations alone, which travel in the checkpoint: a resumed run stops where the whole one
        would have. Those that had nothing to measure do not count.
        """
        if config.patience is None:
            return ""
        record, waited = -1.0, 0
        for ap in (evaluation.ap for evaluation in self.evaluations if evaluation.ap >= 0):
            better = record < 0 or ap > record + config.min_delta
            record, waited = (ap, 0) if better else (record, waited + 1)
        if waited < config.patience:
            return ""
        by = f" by more than {config.min_delta:g}" if config.min_delta else ""
        evaluations = "1 evaluation was" if waited == 1 else f"{waited} evaluations were"
        return f"the last {evaluations} not better than AP {record:.4f}{by}"

    def write_best(self) -> File | None:
        """None on every rank but the main one, which writes."""
        assert self.best is not None
        return self._write(BEST_WEIGHTS, self._best_state, self.best)

    def write_file(self, kept: BestKind) -> File | None:
        """Of the best student or of the teacher. None where there is none, and on every rank but the main one."""
        content = self.files.get(kept)
        evaluation = self.teacher if kept.startswith("teacher_") else self.best
        if content is None or evaluation is None or not distributed.is_main():
            return None
        path = self.workdir / BEST_FILES[kept]
        return File(path, kind_of(kept), evaluation.step, write_bytes(path, content))

    def write_last(self, student: nn.Module) -> File | None:
        """As `write_best`."""
        return self._write(LAST_WEIGHTS, student.state_dict(), self.evaluations[-1])

    def _write(self, name: str, state: State, evaluation: Evaluation) -> File | None:
        if not distributed.is_main():
            return None
        path = self.workdir / name
        extra = {"step": str(evaluation.step), "epoch": f"{evaluation.epoch:.4f}", "ap": f"{evaluation.ap:.6f}"}
        digest = write_weights(path, state, model=self.model, classes=self.classes, extra=self.metadata | extra)
        return File(path, "weights", evaluation.step, digest)

    def state_dict(self, seconds: float) -> dict[str, Any]:
        """For the checkpoint; `seconds` is the time that the run has taken so far."""
        return {
            "teacher": None if self.teacher is None else self.teacher.numbers(),
            "evaluations": [evaluation.numbers() for evaluation in self.evaluations],
            "best": None if self.best is None else self.best.numbers(),
            "best_state": self._best_state,
            # As tensors: a checkpoint is read by a reader that knows no bytes.
            "matches": {
                kept: torch.frombuffer(bytearray(content), dtype=torch.uint8)
                for kept, content in self.files.items()
                if content is not None
            },
            "seconds": seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher = None if state["teacher"] is None else Evaluation(**state["teacher"])
        self.evaluations = [Evaluation(**evaluation) for evaluation in state["evaluations"]]
        self.best = None if state["best"] is None else Evaluation(**state["best"])
        self._best_state = state["best_state"]
        saved = state.get("matches", {})  # checkpoints of earlier versions have none, or no detections among them
        self.files = {kept: content.cpu().numpy().tobytes() for kept, content in saved.items()}
        self.seconds_before = state["seconds"]

    def summary(self, student: nn.Module, teacher: nn.Module | None) -> dict[str, Any]:
        """The manifest's part on models and their AP."""
        assert self.best is not None
        summary: dict[str, Any] = {
            "classes": self.classes,
            "student": {**size_of(student), **_figures(self.best)},
            "evaluations": [_numbers(evaluation) for evaluation in self.evaluations],
            "weights": {name: _file(self.workdir / name) for name in (BEST_WEIGHTS, LAST_WEIGHTS)},
        }
        if teacher is not None:
            summary["teacher"] = {**size_of(teacher), **(_figures(self.teacher) if self.teacher else {})}
        if self.teacher is not None:
            summary["gap_to_teacher"] = self.teacher.ap - self.best.ap
        return summary


def write_manifest(run: Run, manifest: dict[str, Any]) -> File:
    """The manifest of any run, as JSON. Raises `OSError`."""
    path = run.workdir / MANIFEST
    return File(path, "manifest", run.step, write_text(path, json.dumps(manifest, indent=2) + "\n"))


def size_of(model: nn.Module) -> dict[str, Any]:
    """Parameters, and megabytes (10^6 bytes) of all weights and buffers."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "megabytes": round(sum(value.nbytes for value in model.state_dict().values()) / 1e6, 3),
    }


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    return {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}


def _packed(evaluation: Evaluation) -> bytes | None:
    return None if evaluation.detections is None else evaluation.detections()


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **_numbers(evaluation),
        "per_class": evaluation.per_class,
        "class_metrics": evaluation.class_metrics,
        "milliseconds_per_image": evaluation.milliseconds_per_image,
        "max_detections": evaluation.max_detections,
        "ground_truth": evaluation.ground_truth(),
    }


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    return {"step": evaluation.step, "epoch": evaluation.epoch, "metrics": evaluation.metrics}


def _file(path: Path) -> dict[str, Any]:
    return {"sha256": file_digest(path), "bytes": path.stat().st_size}
