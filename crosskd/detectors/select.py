"""From a head's predictions to detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crosskd.boxes.ops import clip, suppress
from crosskd.losses import full
from crosskd.spec.config import PostprocessConfig
from crosskd.structures import Detections, Predictions, Size

if TYPE_CHECKING:
    from crosskd.detectors.head import DenseHead


def select(
    head: DenseHead, predictions: Predictions, sizes: Sequence[Size], config: PostprocessConfig
) -> list[Detections]:
    """See `DenseHead.detect`."""
    maps = [(x.shape[-2], x.shape[-1]) for x in predictions.cls]
    anchors = head.anchors(maps, full(predictions.cls[0]))
    found = []
    for image, size in enumerate(sizes):
        boxes, scores, labels, start = [], [], [], 0
        for level, count in enumerate(anchors.level_sizes):
            score, anchor, label = _best(head, predictions, image, level, config)
            codes = _cells(predictions.box[level][image], head.code_size)[anchor]  # [D, B]
            boxes.append(clip(head.decode(codes, anchors.take(start + anchor)), size))
            scores.append(score)
            labels.append(label)
            start += count
        found.append(
            suppress(
                torch.cat(boxes),
                torch.cat(scores),
                torch.cat(labels),
                threshold=config.nms_iou,
                keep=config.max_detections,
            )
        )
    return found


def _best(
    head: DenseHead, predictions: Predictions, image: int, level: int, config: PostprocessConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, anchor (of the level) and label of the best (anchor, class) pairs of one level, [D] each."""
    score = _cells(predictions.cls[level][image], head.num_classes).sigmoid()  # [H * W * a, K]
    centre = None
    if predictions.centerness is not None:
        centre = _cells(predictions.centerness[level][image], 1).sigmoid()  # [H * W * a, 1]
    if centre is not None and config.score == "root":
        score, centre = (score * centre).sqrt(), None
    anchor, label = (score > config.score_threshold).nonzero(as_tuple=True)
    best, order = score[anchor, label].sort(descending=True)
    best, order = best[: config.pre_nms], order[: config.pre_nms]
    anchor, label = anchor[order], label[order]
    # A second threshold does not follow: centerness only ranks what passed.
    return (best if centre is None else best * centre[anchor, 0]), anchor, label


def _cells(maps: Tensor, width: int) -> Tensor:
    """One image's maps [a * width, H, W] -> [H * W * a, width]."""
    return full(maps).permute(1, 2, 0).reshape(-1, width)
