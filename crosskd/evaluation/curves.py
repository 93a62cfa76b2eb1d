"""Precision-recall curves as a file: JSON that a plot can be drawn from, small enough to keep one per evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosskd.spec.results.files import curves_name
from crosskd.structures import Curves, Evaluation
from crosskd.weights.files import File, write_text

IOUS = ("0.50", "0.75", "0.50:0.95")  # the last: the mean of ten
DIGITS = 4  # of a precision: a plot shows no more, and a file of 80 classes stays below 200 kB


def write_curves(folder: Path, evaluation: Evaluation) -> File:
    """Write the curves of `evaluation`, which must have them, into `folder`. Raises `OSError`."""
    assert evaluation.curves is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / curves_name(evaluation.model, evaluation.step)
    described = {"model": evaluation.model, "step": evaluation.step, "epoch": evaluation.epoch}
    digest = write_text(path, json.dumps(described | as_json(evaluation.curves), separators=(",", ":")) + "\n")
    return File(path, "curves", evaluation.step, digest)


def as_json(curves: Curves) -> dict[str, Any]:
    """`recall` is the axis of every curve; a class without ground truth is null, and not part of the mean."""
    known = curves.precision[:, (curves.precision >= 0).all(axis=(0, 2))]  # [3, K', 101]
    return {
        "recall": np.linspace(0, 1, 101).round(2).tolist(),
        "mean": _by_iou(known.mean(axis=1)) if known.shape[1] else None,
        "classes": {
            name: _by_iou(table) if (table := curves.precision[:, label]).min() >= 0 else None
            for label, name in enumerate(curves.classes)
        },
    }


def _by_iou(table: NDArray[np.float64]) -> dict[str, list[float]]:
    """Of precision [3, 101]."""
    return dict(zip(IOUS, table.round(DIGITS).tolist(), strict=True))
