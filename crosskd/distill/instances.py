"""GID's general instances (arXiv 2103.02340): the boxes on which student and teacher differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from crosskd.boxes.ops import clip
from crosskd.detectors.dense.anchor_windows import by_anchor, cut_out
from crosskd.detectors.dense.head import DenseHead
from crosskd.distill.mimic import presence
from crosskd.structures import Predictions, Size

CANDIDATES = 3000  # of an image go into suppression, those with the largest scores
LEAST = 1.0  # pixel: a side of an instance


@dataclass(frozen=True)
class Instances:
    """Of one image, best first."""

    boxes: Tensor  # [K, 4], clipped to the image
    labels: Tensor  # [K] long: the class in which both models are furthest apart


@torch.no_grad()
def general_instances(
    head: DenseHead, ours: Predictions, theirs: Predictions, sizes: Sequence[Size], *, keep: int, nms_iou: float
) -> list[Instances]:
    """At most `keep` per image, (height, width) `sizes`, of two predictions of `head`.

    An anchor's score is the largest difference that both have in a class's probability. Its box is that of the model
    whose best class is more probable. Suppression is among all classes.
    """
    there = [presence(predictions) for predictions in (ours, theirs)]

    def each(logits: Tensor, window: slice) -> tuple[Tensor, Tensor, Tensor]:
        other = cut_out(theirs.cls, head.num_classes, window)
        p, q = (
            x.sigmoid() * (share if isinstance(share, float) else share[:, window, None])
            for x, share in zip((logits, other), there, strict=True)
        )
        apart = (p - q).abs()
        return apart.amax(-1), apart.argmax(-1), q.amax(-1) - p.amax(-1)

    score, label, lead = by_anchor(ours.cls, head.num_classes, each)
    boxes = torch.where((lead > 0)[..., None], head.decoded(theirs), head.decoded(ours))
    found = []
    for image, size in enumerate(sizes):
        best = score[image].topk(min(CANDIDATES, score.shape[1])).indices
        candidates = clip(boxes[image, best], size)
        solid = (candidates[:, 2:] - candidates[:, :2] >= LEAST).all(1)
        candidates, best = candidates[solid], best[solid]
        kept = nms(candidates, score[image, best], nms_iou)[:keep]
        found.append(Instances(candidates[kept], label[image, best[kept]]))
    return found
