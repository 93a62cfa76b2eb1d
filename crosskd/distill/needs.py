"""How a model meets the needs of the terms, each kind in one function. What they are stands in `crosskd.spec.needs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.detector import Detector
from crosskd.distill.term import View
from crosskd.spec.needs import AnchorPredictions, HeadCut, Need, Pyramid, Side
from crosskd.structures import Assignment, Held, Predictions, Targets

Fields = dict[str, Any]  # of a `View`


@dataclass(frozen=True)
class Met:
    """What a model has made of a batch, by need."""

    head: DenseHead
    fields: Mapping[Need, Fields]

    def view(self, needs: Sequence[Need]) -> View:
        """What these needs ask of this model, and nothing else."""
        return View(self.head, **{k: v for need in needs for k, v in self.fields.get(need, {}).items()})


class Pass:
    """A model's way through one batch, from its pyramid on: a part is made when first asked for, once.

    It stops in the head where a need cuts it, and goes on from there to the predictions.
    """

    def __init__(
        self,
        side: Side,
        model: Detector,
        features: list[Tensor],
        targets: Targets,
        needs: Sequence[Need],
        assigned: Assignment | None = None,
    ) -> None:
        """`assigned`: what the other model's anchors learn, where this one's learn the same."""
        self.side: Side = side
        self.head, self.features = model.head, features
        self.needs = [need for need in needs if side in need.sides]
        self.targets, self.assigned = targets, assigned
        self._held: dict[tuple[int, bool], Held] = {}

    def meet(self) -> Met:
        """All that is asked of this model."""
        return Met(self.head, {need: HOW[type(need)](self, need) for need in self.needs})

    @property
    def assignment(self) -> Assignment:
        if self.assigned is None:
            self.assigned = self.head.assign(self.predictions, self.targets)
        return self.assigned

    @cached_property
    def predictions(self) -> Predictions:
        cuts = [(need.of(self.side), need.after_relu) for need in self.needs if isinstance(need, HeadCut)]
        cut, after_relu = cuts[0] if cuts else (0, True)
        return self.head.back(self.held(cut, after_relu=after_relu), cut)

    def held(self, cut: int, *, after_relu: bool) -> Held:
        """Both towers' maps at a cut."""
        if (cut, after_relu) not in self._held:
            self._held[cut, after_relu] = self.head.front(self.features, cut, after_relu=after_relu)
        return self._held[cut, after_relu]


def _pyramid(made: Pass, need: Pyramid) -> Fields:  # noqa: ARG001
    return {"features": made.features}


def _anchor_predictions(made: Pass, need: AnchorPredictions) -> Fields:  # noqa: ARG001
    return {"assignment": made.assignment, "predictions": made.predictions}


def _head_cut(made: Pass, need: HeadCut) -> Fields:
    return {"held": made.held(need.of(made.side), after_relu=need.after_relu)}


HOW: dict[type[Need], Callable[[Pass, Any], Fields]] = {
    Pyramid: _pyramid,
    AnchorPredictions: _anchor_predictions,
    HeadCut: _head_cut,
}
