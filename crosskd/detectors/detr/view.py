"""How a DETR meets the needs of the terms, each kind in one function. See `crosskd.spec.distill.needs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from crosskd.detectors.detr.library import kind_of, pixel_mask
from crosskd.detectors.detr.losses import by_term
from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.detectors.detr.ports.port import Recording
from crosskd.detectors.view import Fields, Pass
from crosskd.spec.config import ModelConfig
from crosskd.spec.distill.needs import DecoderQueries, Need, Pyramid, Side
from crosskd.structures import Losses, Size, Targets


class Maps(list[Tensor]):
    """A DETR's pyramid, which knows the (height, width) of the batch that it was made of."""

    image: Size

    def __init__(self, maps: Sequence[Tensor], image: Size) -> None:
        super().__init__(maps)
        self.image = image


def box_scale(config: ModelConfig, sizes: Sequence[Size], whole: Size) -> list[Size]:
    """The (height, width) of which each image's boxes are shares.

    Its own where the model is told what is padding, else that of the batch.
    """
    return list(sizes) if kind_of(config).masked else [whole] * len(sizes)


def call(model: Any, maps: Maps, sizes: Sequence[Size] | Tensor, labels: list[dict[str, Tensor]] | None = None) -> Any:
    """The library's model on maps that were made already; `sizes` says what of each image is no padding."""
    first = maps[0]
    # The images are asked for their shape, type and device alone.
    images = first.new_empty(()).expand(first.shape[0], 3, *maps.image)  # a `len` would fix it in a graph
    model.model.backbone.maps = list(maps)
    try:
        return model(pixel_values=images, pixel_mask=pixel_mask(sizes, maps.image, first.device), labels=labels)
    finally:
        model.model.backbone.maps = []


class DetrPass(Pass):
    """It runs its model once: the student with the targets, which it matches layer by layer, the teacher without.

    Of images without ground truth the student, too, runs without, and has no losses.
    """

    features: Maps

    def __init__(
        self,
        side: Side,
        head: Any,
        features: list[Tensor],
        targets: Targets,
        needs: Sequence[Need],
        config: ModelConfig,
    ) -> None:
        super().__init__(side, head, features, targets, needs)
        self.config = config

    def fields(self, need: Need) -> Fields:
        return HOW[type(need)](self, need)

    def losses(self) -> Losses:
        objects = sum(len(labels) for labels in self.targets.labels)
        return by_term(self.output.loss_dict, self.head, objects)

    @property
    def output(self) -> Any:
        """What the library's model says of the batch, its losses included where it is the student."""
        return self._run[0]

    @property
    def recording(self) -> Recording:
        """What went through its decoder as it said that."""
        return self._run[1]

    @cached_property
    def _run(self) -> tuple[Any, Recording]:
        learns = self.side == "student" and not self.targets.unlabelled
        labels = self.labels if learns else None
        with port_of(self.head).record() as recording:
            return call(self.head, self.features, self.targets.sizes, labels), recording

    @property
    def labels(self) -> list[dict[str, Tensor]]:
        """The objects as the library takes them: boxes (centre x, centre y, width, height) in shares of the image."""
        scales = box_scale(self.config, self.targets.sizes, self.features.image)
        return [
            {"class_labels": labels, "boxes": shares(boxes, scale)}
            for boxes, labels, scale in zip(self.targets.boxes, self.targets.labels, scales, strict=True)
        ]


def shares(boxes: Tensor, scale: Size) -> Tensor:
    """Corners in pixels [G, 4] -> centre x, centre y, width, height in shares of (height, width) `scale`."""
    height, width = scale
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat(((low + high) / 2, high - low), dim=1) / boxes.new_tensor([width, height, width, height])


def _pyramid(made: DetrPass, need: Pyramid) -> Fields:  # noqa: ARG001
    return {"features": made.features}


def _decoder_queries(made: DetrPass, need: DecoderQueries) -> Fields:  # noqa: ARG001
    scales = box_scale(made.config, made.targets.sizes, made.features.image)
    return {"recording": made.recording, "scales": scales}


HOW: dict[type[Need], Callable[[DetrPass, Any], Fields]] = {
    Pyramid: _pyramid,
    DecoderQueries: _decoder_queries,
}
