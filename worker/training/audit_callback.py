"""The callback that keeps a training's audit log. It comes before the reporter: nothing is sent that is not noted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from typing_extensions import override

from crosskd.engine.callbacks import Callback, Run, TrainResult
from crosskd.structures import Evaluation
from wire.artifacts import BEST_WEIGHTS, LAST_WEIGHTS, MANIFEST, curves_artifact
from wire.reports import Claim
from worker.deliver.digest import sha256_of
from worker.training.audit_log import AuditLog, Began, Ended, Evaluated, Points, Wrote, exact


class AuditCallback(Callback):
    """Notes what the reporter is told, by itself. Raises `OSError` where the audit log cannot be written."""

    def __init__(self, folder: Path, claim: Claim, worker: str) -> None:
        self._audit_log = AuditLog(folder, claim.attempt)
        resume = claim.resume
        self._audit_log.note(
            Began(
                job=claim.job,
                attempt=claim.attempt,
                number=claim.fencing_token,
                worker=worker,
                pid=os.getpid(),
                resume_step=resume.step if resume else None,
                resume_sha256=resume.sha256 if resume else None,
            )
        )

    @override
    def on_log(self, run: Run, values: dict[str, float]) -> None:
        self._audit_log.note(Points(step=run.step, values=exact(values)))

    @override
    def on_evaluation(self, run: Run, evaluation: Evaluation) -> None:
        record = Evaluated(model=evaluation.model, step=evaluation.step, metrics=exact(evaluation.metrics))
        self._audit_log.note(record)

    @override
    def on_curves(self, run: Run, path: Path, evaluation: Evaluation) -> None:
        self._wrote(path, curves_artifact(evaluation.model, evaluation.step), evaluation.step)

    @override
    def on_weights(self, run: Run, path: Path, step: int, best: bool) -> None:
        self._wrote(path, BEST_WEIGHTS if best else LAST_WEIGHTS, step)

    @override
    def on_checkpoint(self, run: Run, path: Path, step: int) -> None:
        self._wrote(path, f"checkpoint-{step:08d}.pt", step)

    @override
    def on_file(self, run: Run, path: Path, kind: Literal["onnx", "manifest"]) -> None:
        self._wrote(path, path.name, run.step)

    @override
    def on_end(self, run: Run, result: TrainResult) -> None:
        self._wrote(run.workdir / MANIFEST, MANIFEST, result.steps)

    def _wrote(self, path: Path, name: str, step: int | None) -> None:
        self._audit_log.note(Wrote(name=name, step=step, size=path.stat().st_size, sha256=sha256_of(path).hex()))

    def ended(self, outcome: str, *, delivered: bool) -> None:
        """The last word; `delivered` says whether the reporter could hand everything over."""
        self._audit_log.note(Ended(outcome=outcome, delivered=delivered))
        self._audit_log.close()
