"""Sweeps whose jobs a test trains by hand."""

from __future__ import annotations

from typing import Any

from tests.support.evaluations import METRICS
from tests.support.worker_calls import Worker, upload

ARMS: dict[str, Any] = {"alone": {}, "faster": {"optimizer": {"lr": 0.02}}}


def order(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A sweep of two arms that need no teacher, and two seeds."""
    return {"name": "a sweep", "base": spec, "arms": ARMS, "seeds": [1, 2], **changes}


def train(worker: Worker, job: str, ap: float, *, teacher_ap: float | None = None, **result: Any) -> None:
    """Take the job to its good end, with weights and a best student of this AP."""
    assert worker.claim(job).status_code == 200
    if teacher_ap is not None:
        metrics = METRICS | {"AP": teacher_ap}
        assert worker.post("evaluations", {"model": "teacher", "step": 0, "metrics": metrics}).status_code == 204
    metrics = METRICS | {"AP": ap, "AP50": 2 * ap, "APs": ap / 2, "APl": -1.0}
    report = {
        "model": "student", "step": 5, "metrics": metrics, "per_class": {"ring": ap, "square": -1.0}, "best": True,
        "milliseconds_per_image": 3.0,
    }  # fmt: skip
    assert worker.post("evaluations", report).status_code == 204
    upload(worker, "best.safetensors", b"weights of " + job.encode())
    manifest = {"seconds": 60.0, "steps": 10, "student": {"parameters": 1000, "megabytes": 4.0}, **result}
    assert worker.finish("succeeded", result=manifest).status_code == 200
