"""What is kept of a dense teacher's pass, and a pass out of it: neither backbone nor head runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.dense.view import DensePass
from crosskd.detectors.view import STATISTICS, Kept, kept_maps, levels_of
from crosskd.losses import at_least_float32
from crosskd.spec.distill.needs import AnchorPredictions, HeadCut, Need, Pyramid
from crosskd.structures import Held, HeldMoments, Moments, Predictions, Targets

TOWERS = ("cls", "box")
MAPS = ("cls", "box", "centerness", "objectness")  # of `Predictions`


def moments(x: Tensor) -> Moments:
    """What is to be known of each image's map, [N, C, H, W], in full precision."""
    x = at_least_float32(x)
    cells = x.shape[-2] * x.shape[-1]
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    return Moments(mean.new_full((len(x), 1), cells), mean, variance * cells)


def keep(made: DensePass) -> Kept:
    """The pyramid where a term asks for it; of the head its predictions, and the statistics at the cut."""
    found: Kept = {}
    for need in made.needs:
        if isinstance(need, Pyramid):
            found |= kept_maps(made.features)
        elif isinstance(need, AnchorPredictions):
            said = {name: getattr(made.predictions, name) or [] for name in MAPS}
            found |= {f"{name}.{level}": x for name, maps in said.items() for level, x in enumerate(maps)}
        elif isinstance(need, HeadCut):
            found |= _kept_statistics(need, made.held(need.of("teacher"), after_relu=need.after_relu))
    return found


class RecalledPass(DensePass):
    """A teacher's pass of which predictions and statistics are known."""

    def __init__(self, head: DenseHead, kept: Kept, targets: Targets, needs: Sequence[Need]) -> None:
        super().__init__("teacher", head, levels_of(kept, "maps"), targets, needs)
        self._kept = kept
        for need in self.needs:
            if isinstance(need, HeadCut):
                self._held[need.of("teacher"), need.after_relu] = _statistics(need, kept)

    @cached_property
    def predictions(self) -> Predictions:
        said = {name: levels_of(self._kept, name) for name in MAPS}
        if not said["cls"]:  # no term asks for them, but the teacher may be asked what it is sure of
            return super().predictions
        return Predictions(said["cls"], said["box"], said["centerness"] or None, said["objectness"] or None)


def _kept_statistics(need: HeadCut, held: Held | HeldMoments) -> Kept:
    assert isinstance(held, Held)
    found: Kept = {}
    for tower in TOWERS:
        for level, x in enumerate(getattr(held, tower)):
            known = moments(x)
            rows = torch.stack((known.count.expand_as(known.mean), known.mean, known.squares), dim=1)
            found[f"{_name(need, tower)}.{level}"] = rows  # [N, 3, C]
    return found


def _statistics(need: HeadCut, kept: Kept) -> HeldMoments:
    cls, box = (
        [Moments(rows[:, 0, :1], rows[:, 1], rows[:, 2]) for rows in levels_of(kept, _name(need, tower))]
        for tower in TOWERS
    )
    return HeldMoments(cls, box, activated=need.after_relu or need.of("teacher") == 0)


def _name(need: HeadCut, tower: str) -> str:
    return f"{STATISTICS}{need.of('teacher')}.{'behind' if need.after_relu else 'before'}.{tower}"
