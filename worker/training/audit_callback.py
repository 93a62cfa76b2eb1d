"""The callback that keeps a training's audit log. It comes before the reporter: nothing is sent that is not noted."""

from __future__ import annotations

import os
from pathlib import Path

from typing_extensions import override

from crosskd.engine.callbacks import Callback, Run
from crosskd.structures import Evaluation
from crosskd.weights.files import File
from wire.reports import Claim
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
    def on_file(self, run: Run, file: File) -> None:
        self._audit_log.note(Wrote(name=file.name, step=file.step, size=file.path.stat().st_size, sha256=file.sha256))

    def ended(self, outcome: str, *, delivered: bool) -> None:
        """The last word; `delivered` says whether the reporter could hand everything over."""
        self._audit_log.note(Ended(outcome=outcome, delivered=delivered))
        self._audit_log.close()
