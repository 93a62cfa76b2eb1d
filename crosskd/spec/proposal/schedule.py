"""How long it trains, and at which learning rate: by the number of images and the detector. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from crosskd.spec import registry
from crosskd.spec.proposal.goals import Goal
from crosskd.spec.proposal.statistics import Statistics
from crosskd.spec.proposal.text import Said, Tree

EVALUATIONS = 10  # of a run, about
POINTS = 200  # of a chart, about


@dataclass(frozen=True)
class _Optimizer:
    values: dict[str, Any]
    why: str
    clip: float = 10.0


_DENSE = {"name": "sgd", "lr": 0.01, "base_batch": 16, "momentum": 0.9, "weight_decay": 1e-4}
_ADAMW = {"name": "adamw", "weight_decay": 0.05, "norm_decay": False}
_SCALED = "It scales with the batch."
# From narrow random weights; `base_batch` is the batch that this was measured with.
_NARROW = _Optimizer(
    {**_ADAMW, "lr": 0.002, "base_batch": 8}, f"As in bccd_crosskd, where a batch has 8 images. {_SCALED}"
)
_BY_DETECTOR = {
    "faster_rcnn": _Optimizer({**_DENSE, "lr": 0.02}, f"As in faster_rcnn_r18_r50, for 16 images. {_SCALED}"),
    "rtmdet": _Optimizer(
        {**_ADAMW, "lr": 0.001, "base_batch": 32}, f"As in rtmdet_tiny_s_36e, for 32 images. {_SCALED}"
    ),
    "yolox": _Optimizer(
        {**_DENSE, "lr": 0.005, "base_batch": 32, "nesterov": True, "weight_decay": 5e-4, "norm_decay": False},
        f"As in yolox_tiny_s_36e, for 32 images. {_SCALED}",
    ),
}
_DETR = _Optimizer(
    {"name": "adamw", "lr": 2e-4, "base_batch": 32, "weight_decay": 1e-4, "backbone_lr_factor": 0.1},
    f"As in deformable_detr_r18_r50, for 32 images. {_SCALED}",
    clip=0.1,
)


def schedule(detector: str, goal: Goal, statistics: Statistics, batch: int) -> Tree:
    """The sections `optimizer`, `schedule`, `clip_norm`, `evaluation` and `log_every`."""
    per_epoch = math.ceil(statistics.images / batch)
    least, most = goal.epochs
    epochs = max(least, min(most, round(goal.steps / per_epoch)))
    total = epochs * per_epoch
    optimizer = _optimizer(detector, goal)
    cosine = optimizer.values["name"] == "adamw"
    decay: Tree = {"decay": Said("cosine")}
    if not cosine:
        milestones = [round(epochs * 2 / 3), round(epochs * 11 / 12)]
        why = "At two thirds and eleven twelfths, as 8 and 11 of the published 12 epochs."
        decay = {"decay": Said("multistep"), "milestones": Said(milestones, why), "gamma": Said(0.1)}
    length = (
        f"{statistics.images:,} images in batches of {batch} make {per_epoch:,} steps an epoch, {total:,} in all; "
        f"{goal.steps:,} are aimed at, within {least} to {most} epochs. Few images are repeated more often."
    )
    return {
        "optimizer": Said(_values(optimizer.values), optimizer.why),
        "schedule": Said(
            {
                "epochs": Said(epochs, length),
                "warmup_steps": Said(min(500, total // 16), f"A sixteenth of the {total:,} steps, 500 at most."),
                **decay,
            }
        ),
        "clip_norm": Said(optimizer.clip, "Against steps that a few odd images would make too large."),
        "evaluation": Said({"every_epochs": Said(math.ceil(epochs / EVALUATIONS), f"Some {EVALUATIONS} evaluations.")}),
        "log_every": Said(max(1, min(50, total // POINTS)), f"Some {POINTS} points in a chart."),
    }


def _optimizer(detector: str, goal: Goal) -> _Optimizer:
    if registry.DETECTORS[detector].family == "detr":
        if detector == "deformable_detr":
            return _Optimizer({**_DETR.values, "sampling_lr_factor": 0.1}, _DETR.why, _DETR.clip)
        return _DETR
    if goal.random and detector not in ("rtmdet", "yolox"):
        return _NARROW
    return _BY_DETECTOR.get(detector) or _Optimizer(_DENSE, f"As published for 16 images ({goal.recipe}). {_SCALED}")


def _values(values: dict[str, Any]) -> Tree:
    return {name: Said(value) for name, value in values.items()}
