"""What brings a backbone's maps to a DETR's width: the library's own projections, taken out of its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

# Where the library's models have them.
PLACES = ("input_proj", "encoder_input_proj")


class Projections(nn.ModuleList):
    """[C3, C4, C5] -> maps of the width that the encoder reads, finest first: [N, width, H_l, W_l].

    There may be more projections than maps: the next one reads C5, and each further one the map before it.
    """

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made: list[Tensor] = []
        for level, projection in enumerate(self):
            source = maps[level] if level < len(maps) else maps[-1] if level == len(maps) else made[-1]
            made.append(projection(source))
        return made


def taken_from(model: Any) -> Projections:
    """The projections of the library's `model`, which passes on from now what it is given."""
    place = next(name for name in PLACES if hasattr(model.model, name))
    taken = getattr(model.model, place)
    setattr(model.model, place, nn.ModuleList(nn.Identity() for _ in taken))
    return Projections(taken)
