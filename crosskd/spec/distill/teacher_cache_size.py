"""How many bytes the teacher cache keeps of an image, by what the terms ask for. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crosskd.spec import registry
from crosskd.spec.config import TrainConfig
from crosskd.spec.data.image_size import Size
from crosskd.spec.distill.needs import AnchorPredictions, DecoderQueries, HeadCut, Need, Pyramid, SampledRegions
from crosskd.spec.model import ModelConfig

MIB = 2**20
STATISTICS = 4  # bytes of each of count, mean and M2
TOWERS = 2


@dataclass(frozen=True)
class Kept:
    """Bytes of one view of an image, by what they are of; about, since a file has a header besides."""

    predictions: int = 0
    statistics: int = 0
    maps: int = 0
    decoder: int = 0

    @property
    def total(self) -> int:
        return self.predictions + self.statistics + self.maps + self.decoder


def kept(
    needs: Sequence[Need], teacher: ModelConfig, classes: int, canvas: Size, dtype: Literal["float32", "float16"]
) -> Kept:
    """What is kept of one view."""
    wide = 4 if dtype == "float32" else 2
    cells = [math.ceil(canvas[0] / stride) * math.ceil(canvas[1] / stride) for stride in teacher.strides]
    found = {"predictions": 0, "statistics": 0, "maps": 0, "decoder": 0}
    for need in dict.fromkeys(needs):
        if isinstance(need, Pyramid | SampledRegions):
            found["maps"] = sum(cells) * teacher.neck.channels * wide
        elif isinstance(need, AnchorPredictions):
            found["predictions"] = sum(cells) * _of_cell(teacher, classes) * wide
        elif isinstance(need, HeadCut):
            found["statistics"] += len(cells) * TOWERS * 3 * teacher.held_channels(need.teacher) * STATISTICS
        elif isinstance(need, DecoderQueries):
            found["decoder"] = _of_decoder(teacher, classes, sum(cells)) * wide
    return Kept(**found)


def views(flip: float) -> int:
    """How many views an image has: as it stands, mirrored, or both."""
    return 2 if 0 < flip < 1 else 1


def told(config: TrainConfig, canvas: Size | None, images: int) -> str:
    """What the cache of a training costs, in words; nothing where that cannot be known beforehand."""
    if config.distill is None or config.distill.cache is None or config.teacher is None:
        return ""
    teacher, classes = config.teacher.model, config.data.classes
    if teacher is None or classes is None or canvas is None:
        return "`distill.cache`: what it keeps of an image is told in the log, once the teacher has seen the first"
    section = config.distill.cache
    terms = config.distill.terms().values()
    needs = [need for knobs in terms for need in knobs.needs(config.student, teacher) if "teacher" in need.sides]
    one, count = kept(needs, teacher, len(classes), canvas, section.dtype), views(config.augment.flip)
    whole = one.total * count * images
    parts = ", ".join(f"{name} {size / MIB:.2f}" for name, size in vars(one).items() if size)
    words = (
        f"`distill.cache` keeps about {one.total / MIB:.2f} MiB of each view of an image ({parts}); {images} image"
        f"{'s' if images > 1 else ''} in {count} view{'s' if count > 1 else ''}: {whole / MIB:.1f} MiB"
    )
    if whole > section.limit_mib * MIB:
        share = section.limit_mib * MIB / whole
        words += f", of which `limit_mib` {section.limit_mib} holds {share:.0%}: the teacher runs for the rest"
    return words


def _of_cell(teacher: ModelConfig, classes: int) -> int:
    """Numbers that a dense head says of a cell."""
    entry = registry.DETECTORS[teacher.detector]
    return teacher.anchors_per_cell * (classes + teacher.box_channels + entry.centerness + entry.objectness)


def _of_decoder(teacher: ModelConfig, classes: int, cells: int) -> int:
    """Numbers of a DETR's memory, of what goes into its decoder, of what its layers make of that, and of its answer."""
    assert teacher.detr is not None
    queries, width = teacher.detr.queries, teacher.detr.width
    return cells * width + queries * (width * (2 + teacher.detr.decoder_layers) + 4 + classes + 4)
