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
from crosskd.detectors.detr.recall import keep, recall
from crosskd.detectors.detr.view import DetrPass, Maps, box_scale, call
from crosskd.detectors.view import Kept
from crosskd.losses import at_least_float32
from crosskd.spec.config import ModelConfig, PostprocessConfig
from crosskd.spec.detr.names import NOISY_CLASSES
from crosskd.spec.distill.needs import Need, Side
from crosskd.structures import Detections, Size, Targets

MAPS = 3  # C3..C5


class DetrDetector(Detector):
    """Queries look at the encoder's memory, and each finds one object or none: nothing is suppressed.

    `neck` makes the maps that the encoder reads. `head` is all else of the library's model, under its own names.
    """

    def __init__(self, config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> None:
        super().__init__(config, num_classes, pretrained=pretrained)
        self.vit = config.backbone.vit
        self.head = library.build(config, num_classes, self.backbone.channels[-MAPS:])
        self.neck = taken_from(self.head)
        given = library.GivenMap if library.kind_of(config).one_map else library.GivenMaps
        self.head.model.backbone = given(self.backbone.channels[-MAPS:])
        self.step = 1 if self.vit is None else self.vit.step
        self.least_side = least_side(config)

    def select_classes(self, kept: Sequence[int]) -> None:
        select_rows(self.head, kept)
        self.num_classes = len(kept)

    def sometimes_idle(self) -> list[str]:
        """What makes queries of noisy objects, where no image has any."""
        return [name for name, _ in self.named_parameters() if NOISY_CLASSES in name]

    def features(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> the maps that the encoder reads, finest first, each [N, width, H_l, W_l].

        Images are padded to `least_side` where they are smaller, and to a multiple of `step`.
        """
        whole = self.padded(images.shape[-2], images.shape[-1])
        down, right = (after - before for after, before in zip(whole, images.shape[-2:], strict=True))
        if down or right:
            outside = images.new_tensor(self.config.pixels.outside)[:, None, None]  # as between images of a batch
            images = F.pad(images - outside, (0, right, 0, down)) + outside
        made = self.backbone(images)
        maps: list[Tensor] = self.neck(made if self.vit is not None else made[-MAPS:])
        return Maps(maps, whole)

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
        return self._said(call(self.head, maps, sizes), sizes, maps.image)

    def _said(self, output: Any, sizes: Sequence[Size], whole: Size) -> list[tuple[Tensor, Tensor]]:
        """`predict`, of what the library's model has said of a batch of (height, width) `whole`."""
        scores, boxes = at_least_float32(output.logits).sigmoid(), at_least_float32(output.pred_boxes)
        scales = box_scale(self.config, sizes, whole)
        clipped = [clip(corners(box, scale), size) for box, scale, size in zip(boxes, scales, sizes, strict=True)]
        return list(zip(scores, clipped, strict=True))

    @torch.no_grad()
    def found(self, made: DetrPass, sizes: Sequence[Size], postprocess: PostprocessConfig) -> list[Detections]:
        said = self._said(made.output, sizes, made.features.image)
        return [best(scores, boxes, postprocess) for scores, boxes in said]

    def part(self, features: list[Tensor], images: slice) -> list[Tensor]:
        assert isinstance(features, Maps)
        return Maps(super().part(features, images), features.image)

    def view(
        self,
        side: Side,
        features: list[Tensor],
        targets: Targets,
        needs: Sequence[Need],
        assigned: Any = None,  # noqa: ARG002 - each model matches what it predicts itself
    ) -> DetrPass:
        return DetrPass(side, self.head, features, targets, needs, self.config)

    def kept(self, made: DetrPass) -> Kept:
        return keep(made)

    def recalled(self, kept: Kept, whole: Size, targets: Targets, needs: Sequence[Need]) -> DetrPass:
        return recall(self.head, kept, self.padded(*whole), targets, needs, self.config)

    def network(self, images: Tensor) -> None:
        maps = self.features(images)
        assert isinstance(maps, Maps)
        with library.traceable(self.config):
            call(self.head, maps, [maps.image] * len(images))

    def convolutions(self) -> list[tuple[nn.Module, str]]:
        """The backbone alone: the library's models look at the sizes of maps as they run."""
        parts = [(self.backbone, "forward"), (self.neck, "forward")]
        return parts if self.vit is None else parts[1:]  # a vision transformer of the library's records as it runs


def least_side(config: ModelConfig) -> int:
    """Pixels of the smallest square that it can look at.

    Where queries begin in cells, it has as many cells on all levels, and two a side on each, so that batch norm has
    something to normalise. In Deformable DETR a group of group norm, of which there are always as many, has two values.
    """
    assert config.detr is not None
    vit, strides, queries = config.backbone.vit, config.strides, config.detr.queries
    if vit is not None:
        cells = ([-(-side // stride) for stride in strides] for side in itertools.count(vit.step, vit.step))
        return vit.step * next(
            count for count, of in enumerate(cells, 1) if min(of) > 1 and sum(a * a for a in of) >= queries
        )
    if library.kind_of(config).masked:
        return 2 * strides[-1] if config.detr.width <= library.GROUPS else 0
    sides = itertools.count(STRIDE, STRIDE)
    return next(s for s in sides if sum((s // stride) ** 2 for stride in strides) >= queries)


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
