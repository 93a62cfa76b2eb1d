"""What the two-stage detectors alone have: their second stage, and what it learns from. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from crosskd.spec.bounds import AtMost
from crosskd.spec.section import Channels, Probability, Section

Std = Annotated[float, Field(gt=0, le=10)]

STRIDES = [4, 8, 16, 32, 64]  # of P2..P6
COARSEST = [32, 32, 64]  # of torchvision's pyramid on a MobileNetV3
RATIOS = (0.5, 1.0, 2.0)  # height over width of the anchors


class RegionConfig(Section):
    """Faster R-CNN (arXiv 1506.01497): proposals by a first stage, and what a second one says of these regions.

    Defaults: torchvision's. What MMDetection's configurations have otherwise stands beside them.
    """

    version: Literal["v1", "v2"] = Field(
        default="v1",
        description="v1: a region's map through two fully connected layers. v2 (arXiv 2111.11429): through four "
        "convolutions and one such layer, with batch norm there and in the neck, and one more convolution before the "
        "proposals.",
    )
    channels: Channels = Field(default=1024, description="Of the fully connected layers.")
    aligned: bool = Field(
        default=False, description="Regions shifted by half a pixel before they are pooled. MMDetection: true."
    )
    sampling_ratio: int = Field(
        default=2,
        ge=0,
        le=16,
        description="Points a side in each pooled cell; 0: as many as it has pixels. MMDetection: 0.",
    )
    anchor_sizes: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1), AtMost(16)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Sides, in pixels, of the square anchors of every cell, on every level; each has three ratios. "
        "Default: one, `anchor_scale` strides. torchvision's on a MobileNetV3: 32, 64, 128, 256, 512.",
    )
    whole_pixel_anchors: bool = Field(
        default=True, description="Anchors' sizes cut and corners rounded to pixels. MMDetection: false."
    )
    spread_cells: bool = Field(
        default=True,
        description="A level's cells lie (padded size // cells) pixels apart; false: a stride. MMDetection: false.",
    )
    box_stds: tuple[Std, Std, Std, Std] = Field(
        default=(0.1, 0.1, 0.2, 0.2),
        description="The second stage's box deltas (centre x, y, width, height) are divided by these.",
    )
    box_beta: float = Field(
        default=1 / 9,
        ge=0,
        le=10,
        description="Below this the smooth L1 losses of box deltas are quadratic; 0: L1. MMDetection: 0.",
    )
    rpn_samples: int = Field(default=256, ge=1, le=65_536, description="Anchors of an image that proposals learn from.")
    rpn_positives: Probability = Field(default=0.5, description="The share of positives among them, at most.")
    rpn_nms_iou: Probability = Field(
        default=0.7, description="Of two proposals of a level that overlap by more than this IoU, the better stays."
    )
    rpn_score_threshold: Probability = Field(
        default=0.0,
        description="Proposals below this score are dropped before NMS. torchvision's on a MobileNetV3: 0.05.",
    )
    train_pre_nms: int = Field(
        default=2000, ge=1, le=100_000, description="In training, proposals kept per level before NMS."
    )
    train_proposals: int = Field(
        default=2000, ge=1, le=100_000, description="In training, proposals of an image. MMDetection: 1000."
    )
    proposals: int = Field(default=1000, ge=1, le=100_000, description="When detecting, proposals of an image.")
    samples: int = Field(
        default=512, ge=1, le=65_536, description="Regions of an image that the second stage learns from."
    )
    positives: Probability = Field(default=0.25, description="The share of positives among them, at most.")

    @property
    def anchors_per_cell(self) -> int:
        return len(RATIOS) * len(self.anchor_sizes or [1])
