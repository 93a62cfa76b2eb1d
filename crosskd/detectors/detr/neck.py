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


def as_list(module: nn.Module, given: Any, made: Tensor | list[Tensor]) -> list[Tensor]:  # noqa: ARG001 - a hook's
    """RF-DETR's projector makes one map alone, and gives no list of it."""
    return [made] if isinstance(made, Tensor) else list(made)


def taken_from(model: Any) -> nn.Module:
    """What makes the library's `model` its maps, taken out: from now on it passes on what it is given."""
    if (projector := getattr(model.model.backbone, "projector", None)) is not None:
        projector.register_forward_hook(as_list)
        return projector  # type: ignore[no-any-return]
    place = next(name for name in PLACES if hasattr(model.model, name))
    taken = getattr(model.model, place)
    setattr(model.model, place, nn.ModuleList(nn.Identity() for _ in taken))
    return Projections(taken)
