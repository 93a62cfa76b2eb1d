"""What a distillation term sees of a detector in one batch, and the detector's way through the batch that makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crosskd.boxes.anchors import Anchors
from crosskd.spec.distill.needs import Need, Side
from crosskd.structures import Assignment, Held, HeldMoments, Losses, Predictions, Size, Targets

Fields = dict[str, Any]  # of a `View`
# What is left of a teacher's pass for another time, by name: [N, ...] each, in which no image sees the others. What
# begins with `STATISTICS` is not to be rounded; with `SHAPES`, it is whole numbers that the host wants.
Kept = dict[str, Tensor]
STATISTICS, SHAPES = "statistics.", "shapes."


class View:
    """What one of the two models made of the batch, as far as the term needs it.

    A field that none of its needs asks for is not there: to read it is an `AttributeError`. The teacher's tensors
    carry no gradient.
    """

    head: Any  # always there: the head of the model's family
    features: list[Tensor]  # Pyramid: the maps, finest first: [N, C, H_l, W_l]
    held: Held | HeldMoments  # HeadCut: both towers' maps at this model's cut; of a teacher that is recalled: of these
    predictions: Predictions  # AnchorPredictions
    # AnchorPredictions, StudentAnchors: of this model's own anchors; one object where both have the same
    assignment: Assignment
    anchors: Anchors  # StudentAnchors
    regions: Any  # SampledRegions, of the student: `two_stage.regions.Regions`
    recording: Any  # DecoderQueries: `detr.ports.port.Recording`
    scales: list[Size]  # DecoderQueries: the (height, width) that each image's boxes are shares of

    def __init__(self, head: Any, **fields: Any) -> None:
        self.head = head
        vars(self).update(fields)


@dataclass(frozen=True)
class Met:
    """What a model has made of a batch, by need."""

    head: Any
    fields: Mapping[Need, Fields]

    def view(self, needs: Sequence[Need]) -> View:
        """What these needs ask of this model, and nothing else."""
        return View(self.head, **{k: v for need in needs for k, v in self.fields.get(need, {}).items()})


class Pass(ABC):
    """A model's way through one batch, from its pyramid on: a part is made when first asked for, once.

    In what order it assigns and predicts is its family's own matter.
    """

    def __init__(
        self,
        side: Side,
        head: Any,
        features: list[Tensor],
        targets: Targets,
        needs: Sequence[Need],
        assigned: Any = None,
    ) -> None:
        """`assigned`: what the other model has assigned, where this one would assign the same."""
        self.side: Side = side
        self.head, self.features = head, features
        self.needs = [need for need in needs if side in need.sides]
        self.targets, self.assigned = targets, assigned

    def meet(self) -> Met:
        """All that is asked of this model."""
        return Met(self.head, {need: self.fields(need) for need in self.needs})

    @abstractmethod
    def fields(self, need: Need) -> Fields:
        """The fields of a `View` by which this family meets `need`."""

    @abstractmethod
    def losses(self) -> Losses:
        """The detection loss of the batch."""


def kept_maps(features: Sequence[Tensor]) -> Kept:
    """Maps as they are kept."""
    return {f"maps.{level}": x for level, x in enumerate(features)}


def levels_of(kept: Kept, name: str) -> list[Tensor]:
    """What is kept as `name`, level by level; nothing where it is not."""
    found: list[Tensor] = []
    while (x := kept.get(f"{name}.{len(found)}")) is not None:
        found.append(x)
    return found
