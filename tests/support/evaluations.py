"""Evaluations as a worker reports them, with numbers made up."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from tests.support.worker_calls import Worker
from wire.artifacts import curves_artifact

NUMBERS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
METRICS = dict.fromkeys(NUMBERS, 0.25)
EVALUATION: dict[str, Any] = {
    "model": "student",
    "step": 3,
    "epoch": 1.0,
    "metrics": METRICS | {"APl": -1.0},
    "per_class": {"ring": 0.2, "square": 0.3},
    "images": 1,
    "best": True,
}


def evaluation(model: str, step: int, ap: float, *, best: bool = False) -> dict[str, Any]:
    metrics = dict.fromkeys(NUMBERS, 0.5) | {"AP": ap}
    return {"model": model, "step": step, "metrics": metrics, "per_class": {"ring": ap}, "best": best}


def report_best(worker: Worker, step: int, ap: float, model: str = "student") -> None:
    report = {"model": model, "step": step, "metrics": METRICS | {"AP": ap}, "best": True}
    assert worker.post("evaluations", report).status_code == 204


def drawn(model: str, step: int) -> bytes:
    flat = {iou: [1.0] * 101 for iou in ("0.50", "0.75", "0.50:0.95")}
    axis = [i / 100 for i in range(101)]
    body = {"model": model, "step": step, "epoch": 1.0, "recall": axis, "mean": flat, "classes": {"ring": flat}}
    return json.dumps(body).encode()


def report_with_curves(worker: Worker, model: str, step: int, *, curves: bool = True) -> None:
    """As a worker does it: the numbers, then the file."""
    assert worker.post("evaluations", evaluation(model, step, 0.5)).status_code == 204
    if curves:
        content = drawn(model, step)
        digest = f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
        name = f"{curves_artifact(model, step)}?kind=curves&step={step}"
        assert worker.put(name, content, **{"Content-Digest": digest}).status_code == 201
