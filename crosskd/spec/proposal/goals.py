"""What a proposal aims at. The numbers come from packaged recipes and from plain geometry. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

GoalName = Literal["fast", "balanced", "accurate"]


@dataclass(frozen=True)
class Goal:
    """Bounds within which the data decide. Sides are pixels of the resized image."""

    recipe: str  # packaged: what the models and the schedule of large data sets are taken from
    source: str  # what is known of that recipe
    student: dict[str, Any]  # backbone
    teacher: dict[str, Any]  # backbone of a teacher that is trained first
    channels: int  # of neck and head
    random: bool  # from random weights; else from ImageNet's
    small_side: float  # that the smallest objects should have
    enlarge: float  # at most, of the images' own size
    shrink: bool  # as far as the smallest objects allow
    short_edges: tuple[int, int]  # between these
    long_edge: int  # at most
    scales: tuple[float, ...]  # of the short edge, drawn anew for each image
    batch_pixels: float  # of a whole batch, at most
    batches: int  # images of a batch, at most
    steps: int  # of the optimizer, that little data are repeated for
    epochs: tuple[int, int]  # between these


GOALS: dict[GoalName, Goal] = {
    "fast": Goal(
        recipe="bccd_crosskd",
        source="measured here on BCCD (docs/benchmarks.md)",
        student={"name": "resnet18", "width": 8},
        teacher={"name": "resnet18", "width": 32},
        channels=64,
        random=True,
        small_side=16,
        enlarge=1.0,
        shrink=True,
        short_edges=(128, 480),
        long_edge=640,
        scales=(1.0,),
        batch_pixels=8 * 320 * 320,
        batches=8,
        steps=800,
        epochs=(12, 100),
    ),
    "balanced": Goal(
        recipe="gfl_r18_r50",
        source="published on COCO: 35.8 AP alone, 38.7 with CrossKD (arXiv 2306.11369)",
        student={"name": "resnet18"},
        teacher={"name": "resnet50"},
        channels=256,
        random=False,
        small_side=16,
        enlarge=2.0,
        shrink=False,
        short_edges=(256, 800),
        long_edge=1333,
        scales=(1.0,),
        batch_pixels=4 * 800 * 1333,
        batches=16,
        steps=6000,
        epochs=(12, 150),
    ),
    "accurate": Goal(
        recipe="gfl_r50_r101",
        source="published on COCO: 40.2 AP alone, 43.7 with CrossKD (arXiv 2306.11369)",
        student={"name": "resnet50"},
        teacher={"name": "resnet101"},
        channels=256,
        random=False,
        small_side=32,
        enlarge=2.0,
        shrink=False,
        short_edges=(320, 800),
        long_edge=1333,
        scales=(0.8, 0.9, 1.0),
        batch_pixels=2 * 800 * 1333,
        batches=16,
        steps=12_000,
        epochs=(24, 200),
    ),
}
