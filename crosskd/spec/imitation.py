"""The sections of the rivals that the CrossKD paper (arXiv 2306.11369) compares itself with. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from crosskd.spec.model import ModelConfig
from crosskd.spec.needs import AnchorPredictions, Need
from crosskd.spec.section import Weight
from crosskd.spec.term import TermConfig


class BCKDConfig(TermConfig):
    """BCKD (arXiv 2308.14286): each class as a binary map, and boxes by GIoU, weighed by how far classes differ."""

    cls_weight: Weight = Field(default=1.0, description="Of the binary maps; published for GFL: 1.")
    box_weight: Weight = Field(default=4.0, description="Of the boxes; published for GFL: 4.")

    def needs(self, student: ModelConfig, teacher: ModelConfig) -> tuple[Need, ...]:  # noqa: ARG002
        return (AnchorPredictions(both=True),)
