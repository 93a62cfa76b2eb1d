"""A DETR (arXiv 2005.12872) of transformers on one of our backbones: its maps, its losses, its detections."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.backbones.staged import STRIDE
from crosskd.boxes.ops import clip
from crosskd.detectors.detector import Detector
from crosskd.detectors.detr import library
from crosskd.detectors.detr.classes import select_rows
from crosskd.detectors.detr.neck import taken_from
from crosskd.detectors.detr.view import DetrPass, Maps, box_scale, call
from crosskd.losses import at_least_float32
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.spec.detr.names import NOISY_CLASSES
from crosskd.spec.needs import Need, Side
from crosskd.structures import Detections, Size, Targets

MAPS = 3  # C3..C5


class DetrDetector(Detector):
    """Queries look at the encoder's memory, and each finds one object or none: nothing is suppressed.

    `neck` makes the maps that the encoder reads. `head` is all else of the library's model, under its own names.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__(config, num_classes, pretrained=pretrained)
        self.head = library.build(config, num_classes, self.backbone.channels[-MAPS:])
        self.neck = taken_from(self.head)
        self.head.model.backbone = library.GivenMaps(self.backbone.channels[-MAPS:])
        self.least_side = least_side(config)

    def select_classes(self, kept: Sequence[int]) -> None:
        select_rows(self.head, kept)
        self.num_classes = len(kept)

    def sometimes_idle(self) -> list[str]:
        """What makes queries of noisy objects, where no image has any."""
        return [name for name, _ in self.named_parameters() if NOISY_CLASSES in name]

    def features(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the maps that the encoder reads, finest first, each [N, width, H_l, W_l].

        Images are padded to `least_side` where they are smaller.
        """
        height, width = images.shape[-2:]
        down, right = max(0, self.least_side - height), max(0, self.least_side - width)
        if down or right:
            outside = images.new_tensor(self.config.pixels.outside)[:, None, None]  # as between images of a batch
            images = F.pad(images - outside, (0, right, 0, down)) + outside
        maps: list[Tensor] = self.neck(self.backbone(images)[-MAPS:])
        return Maps(maps, (height + down, width + right))

    @torch.no_grad()
    def detect(
        self, images: Tensor, sizes: Sequence[Size], postprocess: PostprocessConfig | None = None
    ) -> list[Detections]:
        config = postprocess or self.config.postprocess
        return [best(scores, boxes, config) for scores, boxes in self.predict(images, sizes)]

    def predict(self, images: Tensor, sizes: Sequence[Size]) -> list[tuple[Tensor, Tensor]]:
        """Of each image what all queries say: scores [Q, K], and boxes [Q, 4] in pixels of `images`, clipped to it."""
        maps = self.features(images)
        assert isinstance(maps, Maps)
        output = call(self.head, maps, sizes)
        scores, boxes = at_least_float32(output.logits).sigmoid(), at_least_float32(output.pred_boxes)
        scales = box_scale(self.config, sizes, maps.image)
        clipped = [clip(corners(box, scale), size) for box, scale, size in zip(boxes, scales, sizes, strict=True)]
        return list(zip(scores, clipped, strict=True))

    def view(
        self,
        side: Side,
        features: list[Tensor],
        targets: Targets,
        needs: Sequence[Need],
        assigned: Any = None,  # noqa: ARG002 - each model matches what it predicts itself
    ) -> DetrPass:
        return DetrPass(side, self.head, features, targets, needs, self.config)

    def network(self, images: Tensor) -> None:
        maps = self.features(images)
        assert isinstance(maps, Maps)
        with library.traceable(self.config):
            call(self.head, maps, [maps.image] * len(images))

    def convolutions(self) -> list[tuple[nn.Module, str]]:
        """The backbone alone: the library's models look at the sizes of maps as they run."""
        return [(self.backbone, "forward"), (self.neck, "forward")]


def least_side(config: ModelConfig) -> int:
    """Pixels of the smallest square that it can look at.

    Where queries begin in cells, it has as many cells on all levels. Else a group of group norm, of which there are
    always as many, has two values.
    """
    assert config.detr is not None
    if library.kind_of(config).masked:
        return 2 * config.strides[-1] if config.detr.width <= library.GROUPS else 0
    sides = itertools.count(STRIDE, STRIDE)
    return next(s for s in sides if sum((s // stride) ** 2 for stride in config.strides) >= config.detr.queries)


def best(scores: Tensor, boxes: Tensor, config: PostprocessConfig) -> Detections:
    """The best pairs of a query [Q] and a class [K] of one image, best first: a query may find several classes."""
    count = min(config.max_detections, scores.numel())
    score, pair = scores.flatten().topk(count)
    found, label = boxes[pair // scores.shape[1]], pair % scores.shape[1]
    there = (score >= config.score_threshold) & (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
    return Detections(found[there], score[there], label[there])


def corners(boxes: Tensor, scale: Size) -> Tensor:
    """[..., 4] (centre x, centre y, width, height) in shares of (height, width) `scale` -> corners in pixels."""
    height, width = scale
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1) * boxes.new_tensor([width, height, width, height])
