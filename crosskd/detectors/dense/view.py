"""How a dense detector meets the needs of the terms, each kind in one function. See `crosskd.spec.distill.needs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.detectors.view import Fields, Pass
from crosskd.losses import at_least_float32
from crosskd.spec.distill.needs import AnchorPredictions, HeadCut, Need, Pyramid, Side, StudentAnchors
from crosskd.structures import Assignment, Held, HeldMoments, Losses, Predictions, Targets


class DensePass(Pass):
    """It stops in the head where a need cuts it, and goes on from there to the predictions."""

    head: DenseHead
    assigned: Assignment | None

    def __init__(
        self,
        side: Side,
        head: DenseHead,
        features: list[Tensor],
        targets: Targets,
        needs: Sequence[Need],
        assigned: Assignment | None = None,
    ) -> None:
        super().__init__(side, head, features, targets, needs, assigned)
        self._held: dict[tuple[int, bool], Held | HeldMoments] = {}

    def fields(self, need: Need) -> Fields:
        return HOW[type(need)](self, need)

    def losses(self) -> Losses:
        return self.head.loss(self.predictions, self.assignment)

    @property
    def assignment(self) -> Assignment:
        if self.assigned is None:
            self.assigned = self.head.assign(self.predictions, self.targets)
        return self.assigned

    @cached_property
    def predictions(self) -> Predictions:
        cuts = [(need.of(self.side), need.after_relu) for need in self.needs if isinstance(need, HeadCut)]
        cut, after_relu = cuts[0] if cuts else (0, True)
        held = self.held(cut, after_relu=after_relu)
        assert isinstance(held, Held)  # who recalls statistics alone has the predictions as well
        return self.head.back(held, cut)

    def held(self, cut: int, *, after_relu: bool) -> Held | HeldMoments:
        """Both towers' maps at a cut."""
        if (cut, after_relu) not in self._held:
            self._held[cut, after_relu] = self.head.front(self.features, cut, after_relu=after_relu)
        return self._held[cut, after_relu]


def _pyramid(made: DensePass, need: Pyramid) -> Fields:  # noqa: ARG001
    return {"features": made.features}


def _anchor_predictions(made: DensePass, need: AnchorPredictions) -> Fields:  # noqa: ARG001
    return {"assignment": made.assignment, "predictions": made.predictions}


def _student_anchors(made: DensePass, need: StudentAnchors) -> Fields:
    if need.what == "assignment":
        return {"assignment": made.assignment}
    return {"anchors": made.head.anchors(map_sizes(made.features), at_least_float32(made.features[0]))}


def _head_cut(made: DensePass, need: HeadCut) -> Fields:
    return {"held": made.held(need.of(made.side), after_relu=need.after_relu)}


HOW: dict[type[Need], Callable[[DensePass, Any], Fields]] = {
    Pyramid: _pyramid,
    AnchorPredictions: _anchor_predictions,
    HeadCut: _head_cut,
    StudentAnchors: _student_anchors,
}
