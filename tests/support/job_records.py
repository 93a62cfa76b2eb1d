"""A job's record, as the service would have kept it, with numbers made up; and the charts of a page made of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from report.job import Record
from wire.jobs import Failure, Job
from wire.reports import CocoMetrics, Curves, Evaluation, MetricBucket, MetricBuckets, Model

SCRIPT = "</script><script>alert(1)</script>"  # as a name from outside
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
RECALL = [i / 100 for i in range(101)]
COST = {
    "parameters": 123456,
    "megabytes": 0.5,
    "gflops": 3.2,
    "image": [320, 320],
    "latency": {"pytorch": {"milliseconds": 12.3, "runs": 5, "device": "cpu"}},
}
RESULT = {
    "student": COST,
    "teacher": COST | {"parameters": 999999},
    "seconds": 33.1,
    "device": "cpu",
    "versions": {"torch": "2.9"},
    "annotations_sha256": {"val": "d" * 64},
}


def job(kind: str = "distill", name: str = "a job", status: str = "succeeded", **more: Any) -> Job:
    spec = {"seed": 3, "student": {"detector": "gfl", "backbone": {"name": "resnet18"}}}
    known = {"labels": {}, "created_at": NOW, "updated_at": NOW, "spec_version": 1, "transitions": [], "attempts": []}
    return Job.model_validate(
        {"id": "a" * 32, "kind": kind, "name": name, "status": status, "spec": spec, **known, **more}
    )


def failed(message: str) -> Job:
    failure = Failure(failure_class="data", message=message, log_tail=["<script>last words</script>"])
    return job(status="failed", failure=failure)


def evaluation(
    model: Model, step: int, ap: float, *, best: bool = False, classes: dict[str, float] | None = None
) -> Evaluation:
    metrics = CocoMetrics(**dict.fromkeys(CocoMetrics.model_fields, 0.3) | {"AP": ap, "APl": -1.0})
    per_class = {"cat": ap, "dog": ap - 0.1} if classes is None else classes
    return Evaluation(
        model=model, step=step, metrics=metrics, per_class=per_class, images=30, best=best, attempt=1, at=NOW
    )


def curves(model: Model) -> Curves:
    flat = {iou: [1.0 - recall for recall in RECALL] for iou in ("0.50", "0.75", "0.50:0.95")}
    return Curves.model_validate(
        {"model": model, "step": 20, "epoch": 1.0, "recall": RECALL, "mean": flat, "classes": {}}
    )


def losses() -> MetricBuckets:
    items = [
        MetricBucket(key=key, step=step, points=10, min=0.1, max=2.0, last=1.0, last_step=step + 9, non_finite=broken)
        for step, broken in ((0, []), (10, ["NaN"]))
        for key in ("loss", "crosskd_cls", "lr")
    ]
    return MetricBuckets(width=10, items=items)


def distilled(job: Job, ap: float = 0.35) -> Record:
    """Its student's best evaluation is not its last."""
    rows = [
        evaluation("teacher", 0, 0.4),
        evaluation("student", 20, ap, best=True, classes={"cat": ap - 0.2, "dog": ap, "elk": -1.0}),
        evaluation("student", 30, ap - 0.05),
    ]
    return Record(job, rows, RESULT, {"student": curves("student"), "teacher": curves("teacher")}, losses())


def specs(html: str) -> dict[str, Any]:
    """The charts of a page, as Vega-Lite."""
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed
