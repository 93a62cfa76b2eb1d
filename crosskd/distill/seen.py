"""What the teacher has made of a batch: just now, or before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from crosskd.detectors.dense.head import map_sizes
from crosskd.detectors.detector import Detector
from crosskd.detectors.view import Kept, Pass, levels_of
from crosskd.spec.distill.needs import Need
from crosskd.structures import Size, Targets


@dataclass(frozen=True)
class Seen:
    """Its pyramid of this batch."""

    teacher: Detector
    features: list[Tensor]

    @property
    def map_sizes(self) -> list[Size]:
        """(height, width) of each level."""
        return map_sizes(self.features)

    def part(self, images: slice) -> Seen:
        return Seen(self.teacher, self.teacher.part(self.features, images))

    def view(self, targets: Targets, needs: Sequence[Need]) -> Pass:
        return self.teacher.view("teacher", self.features, targets, needs)


@dataclass(frozen=True)
class Recalled:
    """What was kept of each image of this batch, which was padded to (height, width) `whole`."""

    teacher: Detector
    kept: Kept
    whole: Size

    @property
    def map_sizes(self) -> list[Size]:
        """(height, width) of each level: of its maps, or of what was predicted of their cells."""
        return map_sizes(levels_of(self.kept, "maps") or levels_of(self.kept, "cls"))

    def part(self, images: slice) -> Recalled:
        return Recalled(self.teacher, {name: x[images] for name, x in self.kept.items()}, self.whole)

    def view(self, targets: Targets, needs: Sequence[Need]) -> Pass:
        return self.teacher.recalled(self.kept, self.whole, targets, needs)
