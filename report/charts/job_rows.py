"""The rows of a job's charts, from models of the wire: for each chart its data sets, each a list of plain rows.

Long series come as buckets (`GET /jobs/{id}/metrics?buckets=400`), in which spikes survive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wire.job_report import JobReport, ReportedDetector, ReportedNumber
from wire.reports import Evaluation, MetricBucket, MetricBuckets

Rows = dict[str, list[dict[str, Any]]]

# The charts of one series of a training: the key among its metrics.
SERIES: Final = {
    "learning_rate": "lr",
    "throughput": "images_per_second",
    "steps_per_second": "steps_per_second",
    "gradient_norm": "grad_norm",
    "memory": "memory_mib",
}

MOST_CLASSES = 40  # of a chart; the table has all

# Of the series of a training, those that are no losses: they have other units.
NOT_LOSSES = frozenset(
    {"lr", "grad_norm", "steps_per_second", "images_per_second", "data_wait", "memory_mib", "utilisation"}
    | {"unlabelled_images", "unlabelled_confident"}
    | {"teacher_cache_hits", "teacher_cache_misses", "teacher_cache_damaged", "teacher_cache_mib"}
)


def of_job(report: JobReport) -> dict[str, Rows]:
    """By the names in `by_name`; only charts that have a row."""
    titles: dict[str, str] = {one.role: one.title for one in report.detectors}
    known = {
        "losses": losses(report.losses),
        "ap": average_precision(report.evaluations),
        "classes": classes(report.classes, titles),
        "curves": precision_over_recall(report.detectors),
        "cost": cost(report.detectors),
        **{name: series(report.losses, key) for name, key in SERIES.items()},
    }
    return {name: rows for name, rows in known.items() if any(rows.values())}


def losses(buckets: MetricBuckets) -> Rows:
    """The loss and its terms, without the learning rate and the like."""
    kept = [row for row in buckets.items if row.key not in NOT_LOSSES]
    return {
        "losses": [
            {"step": row.last_step, "term": row.key, "loss": row.last, "smooth": row.last} | _band(row)
            for row in kept
            if _drawable(row)
        ],
        "broken": [
            {"step": row.step, "term": row.key, "value": ", ".join(row.non_finite)} for row in kept if row.non_finite
        ],
    }


def series(buckets: MetricBuckets, key: str) -> Rows:
    """One series, such as `lr`."""
    kept = [row for row in buckets.items if row.key == key]
    return {
        "series": [
            {"step": row.last_step, "value": row.last, "smooth": row.last} | _band(row)
            for row in kept
            if _drawable(row)
        ],
        "broken": [{"step": row.step, "value": ", ".join(row.non_finite)} for row in kept if row.non_finite],
    }


def average_precision(evaluations: Sequence[Evaluation]) -> Rows:
    measured = [row for row in evaluations if row.metrics.AP >= 0]
    return {
        "student": [
            {"step": row.step, "AP": row.metrics.AP, "epoch": row.epoch, "best": row.best}
            for row in measured
            if row.model == "student"
        ],
        "teacher": [{"AP": row.metrics.AP} for row in measured if row.model == "teacher"][-1:],
    }


def classes(rows: Sequence[ReportedNumber], titles: Mapping[str, str]) -> Rows:
    """The first `MOST_CLASSES` of `rows`. `titles`: of each role."""
    return {
        "classes": [
            {"class": row.name, "detector": titles[role], "AP": value}
            for row in rows[:MOST_CLASSES]
            for role, value in row.values.items()
            if value is not None
        ]
    }


def precision_over_recall(detectors: Sequence[ReportedDetector]) -> Rows:
    """At IoU 0.50 and over 0.50:0.95; only of those that left curves."""
    return {
        "curves": [
            {"detector": one.title, "IoU": iou, "recall": recall, "precision": precision}
            for one in detectors
            if one.curves is not None and one.curves.mean is not None
            for iou in ("0.50", "0.50:0.95")
            for recall, precision in zip(one.curves.recall, one.curves.mean.get(iou, []), strict=False)
            if math.isfinite(precision) and precision >= 0
        ]
    }


def cost(detectors: Sequence[ReportedDetector]) -> Rows:
    return {
        "cost": [
            {
                "detector": one.title,
                "AP": one.metrics.AP,
                "milliseconds": one.milliseconds,
                "parameters": one.parameters,
            }
            for one in detectors
            if one.metrics is not None and one.metrics.AP >= 0 and one.milliseconds is not None
        ]
    }


def _band(row: MetricBucket) -> dict[str, float | None]:
    return {"least": row.min, "greatest": row.max}


def _drawable(row: MetricBucket) -> bool:
    return isinstance(row.last, float) and row.min is not None
