"""How a two-stage detector meets the needs of the terms (`crosskd.spec.distill.needs`), each kind in one function."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from crosskd.detectors.two_stage.head import RegionHead
from crosskd.detectors.two_stage.proposals import Objects
from crosskd.detectors.two_stage.regions import Regions
from crosskd.detectors.view import Fields, Pass
from crosskd.spec.distill.needs import Need, Pyramid, SampledRegions, StudentAnchors
from crosskd.structures import Losses


class RegionPass(Pass):
    """It proposes, samples regions of these, and predicts of them."""

    head: RegionHead

    def fields(self, need: Need) -> Fields:
        return HOW[type(need)](self, need)

    def losses(self) -> Losses:
        """Of the proposals and of the sampled regions, one value each."""
        predictions = self.head.predict(self.features, self.regions.boxes)
        with torch.autocast(self.features[0].device.type, enabled=False):
            proposed = self.head.rpn.loss(self.objects, self.targets)
        return self.head.loss(predictions, self.regions) | proposed

    @cached_property
    def objects(self) -> Objects:
        return self.head.rpn.look(self.features)

    @cached_property
    def regions(self) -> Regions:
        return self.head.sample(self.head.proposals(self.objects, self.targets.sizes), self.targets)


def _pyramid(made: RegionPass, need: Pyramid) -> Fields:  # noqa: ARG001
    return {"features": made.features}


def _sampled_regions(made: RegionPass, need: SampledRegions) -> Fields:  # noqa: ARG001
    """The student's regions alone: the teacher is asked about these."""
    return {"features": made.features} | ({"regions": made.regions} if made.side == "student" else {})


def _student_anchors(made: RegionPass, need: StudentAnchors) -> Fields:  # noqa: ARG001
    """Those that propose; the need itself refuses to be about more."""
    return {"anchors": made.objects.anchors}


HOW: dict[type[Need], Callable[[RegionPass, Any], Fields]] = {
    Pyramid: _pyramid,
    SampledRegions: _sampled_regions,
    StudentAnchors: _student_anchors,
}
