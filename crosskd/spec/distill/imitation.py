"""The sections of the rivals that the CrossKD paper (arXiv 2306.11369) compares itself with. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crosskd.spec.distill.needs import AnchorPredictions, Need, Pyramid, StudentAnchors
from crosskd.spec.distill.term import MapsConfig, TermConfig
from crosskd.spec.model import ModelConfig
from crosskd.spec.section import Probability, Weight


class BCKDConfig(TermConfig):
    """BCKD (arXiv 2308.14286): each class as a binary map, and boxes by GIoU, weighed by how far classes differ."""

    cls_weight: Weight = Field(default=1.0, description="Of the binary maps; published for GFL: 1.")
    box_weight: Weight = Field(default=4.0, description="Of the boxes; published for GFL: 4.")

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (AnchorPredictions(both=True),)


class ImitationConfig(TermConfig):
    """Mean squared error of FPN maps within a region (arXiv 2102.12252, where it is what LD is compared with)."""

    region: Literal["main", "inside_boxes"] = Field(
        default="main",
        description="main: the cells whose anchors are positive (Main Region); inside_boxes: those in a box of the "
        "ground truth, on every level (Inside GT Box).",
    )
    weight: Weight = Field(default=2.0, description="Published, in LD's configurations: 2.")

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (Pyramid(), StudentAnchors("assignment")) if self.region == "main" else (Pyramid(),)


class FGFIConfig(TermConfig):
    """FGFI (arXiv 1906.03609): squared error of FPN maps where anchors come near an object."""

    weight: Weight = Field(default=0.01, description="Lambda; published: 0.01.")
    share: Probability = Field(
        default=0.5,
        description="Psi: an anchor is near an object from this share of the best IoU on; published: 0.5.",
    )

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (Pyramid(), StudentAnchors("boxes"))


class DeFeatConfig(MapsConfig):
    """DeFeat (arXiv 2103.14475): squared error of FPN maps in the boxes of a level and outside, apart."""

    foreground_weight: Weight = Field(
        default=3.0, description="Of the maps in boxes; published for Faster R-CNN on VOC: 3."
    )
    background_weight: Weight = Field(
        default=12.0, description="Of the maps outside; published for Faster R-CNN on VOC: 12."
    )


class GIDConfig(TermConfig):
    """GID (arXiv 2103.02340): maps, relations and predictions of the instances on which both models differ most.

    The defaults are the paper's as far as is known: its text could not be read again.
    """

    feature_weight: Weight = Field(default=5e-4, description="Lambda 1, of the maps; published: 5e-4.")
    relation_weight: Weight = Field(default=40.0, description="Lambda 2, of relations between them; published: 40.")
    cls_weight: Weight = Field(default=0.1, description="Lambda 3 times alpha, of classes; published: 0.1.")
    box_weight: Weight = Field(default=1.0, description="Lambda 3 times beta, of boxes; published: 1.")
    instances: int = Field(default=10, ge=1, le=100, description="K, instances of an image; published: 10.")
    nms_iou: Probability = Field(default=0.3, description="Of instances that stay apart; published: 0.3.")

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (Pyramid(), AnchorPredictions(both=True))
