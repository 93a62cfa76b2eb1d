"""The first stage: a region proposal network (arXiv 1506.01497) over every level of the pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import nms

from crosskd.boxes.anchors import Anchors, sized_anchors
from crosskd.boxes.coding import decode_deltas, encode_deltas
from crosskd.boxes.ops import clip
from crosskd.detectors.two_stage.regions import Sampler
from crosskd.losses import at_least_float32, rank_own
from crosskd.spec.config import ModelConfig
from crosskd.spec.regions import RATIOS
from crosskd.structures import Losses, Size, Targets

STDS = (1.0, 1.0, 1.0, 1.0)
SMALLEST = 1e-3  # pixels: a side of a proposal
DEPTH = {"v1": 1, "v2": 2}  # convolutions


@dataclass(frozen=True)
class Objects:
    """What the network says of every anchor, one level after the other."""

    logits: Tensor  # [N, A]: whether there is an object
    deltas: Tensor  # [N, A, 4]
    anchors: Anchors


class ProposalNetwork(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's head, with anchors of three ratios. Attributes are named as in its checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        assert config.regions is not None
        per_cell, depth = config.regions.anchors_per_cell, DEPTH[config.regions.version]
        super().__init__(config.neck.channels, per_cell, conv_depth=depth)
        self.config, self.strides = config.regions, list(config.strides)
        sides = [float(side) for side in config.regions.anchor_sizes or ()]
        self.sides = [sides or [config.anchor_scale * stride] for stride in config.strides]
        samples, share = config.regions.rpn_samples, config.regions.rpn_positives
        self.sampler = Sampler(0.7, 0.3, samples, share, best_of_each=True)

    def look(self, features: Sequence[Tensor]) -> Objects:
        """The pyramid's maps -> objectness and deltas of every anchor, in full precision."""
        logits, deltas = self(list(features))
        flat = torch.cat([_cells(x, 1) for x in logits], dim=1)[..., 0]
        sizes = [(x.shape[-2], x.shape[-1]) for x in features]
        anchors = sized_anchors(
            sizes,
            self.strides,
            self.sides,
            RATIOS,
            flat,
            whole_pixels=self.config.whole_pixel_anchors,
            spread=self.config.spread_cells,
        )
        return Objects(flat, torch.cat([_cells(x, 4) for x in deltas], dim=1), anchors)

    @torch.no_grad()
    def propose(self, objects: Objects, sizes: Sequence[Size], *, pre_nms: int, keep: int) -> list[Tensor]:
        """Of each image, (height, width) `sizes`, the `keep` best boxes [P, 4], clipped to it, best first.

        Per level the `pre_nms` best anchors are decoded; suppression is within each level, on the device, by a
        threshold that is a float32, as in ONNX.
        """
        places, start = [], 0
        for count in objects.anchors.level_sizes:
            places.append(objects.logits[:, start : start + count].topk(min(pre_nms, count), dim=1).indices + start)
            start += count
        limit = float(np.float32(self.config.rpn_nms_iou))
        found = []
        for image, size in enumerate(sizes):
            boxes, scores = [], []
            for place in places:
                level, score = self.decoded(objects, image, place[image], size)
                kept = nms(level, score, limit)
                boxes.append(level[kept])
                scores.append(score[kept])
            best = torch.cat(scores).argsort(descending=True, stable=True)[:keep]
            found.append(torch.cat(boxes)[best])
        return found

    def decoded(self, objects: Objects, image: int, rows: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """The boxes of an image's anchors `rows` [B], clipped, and their scores, without those that have hardly any
        side or too low a score: [B', 4] and [B']."""
        boxes = decode_deltas(objects.anchors.take(rows).boxes(), objects.deltas[image, rows], STDS)
        boxes, scores = clip(boxes, size), objects.logits[image, rows].sigmoid()
        passed = has_sides(boxes) & (scores >= self.config.rpn_score_threshold)
        return boxes[passed], scores[passed]

    def loss(self, objects: Objects, targets: Targets) -> Losses:
        """Cross entropy of objectness and (smooth) L1 of deltas over sampled anchors, by the number of these; []."""
        whole = objects.anchors.boxes()
        entropies, distances, count = [], [], 0
        for image, truth in enumerate(targets.boxes):
            with torch.no_grad():
                matches = self.sampler.match(whole, truth.to(whole.dtype))
                positive, negative = self.sampler.sample(matches)
            logits = objects.logits[image]
            entropies += [F.softplus(-logits[positive]).sum(), F.softplus(logits[negative]).sum()]
            aims = encode_deltas(whole[positive], truth.to(whole.dtype)[matches[positive]], STDS)
            distances.append(box_loss(objects.deltas[image, positive], aims, self.config.box_beta))
            count += len(positive) + len(negative)
        divisor = rank_own(whole.new_tensor(float(count)), least=1)
        return {
            "loss_rpn_cls": torch.stack(entropies).sum() / divisor,
            "loss_rpn_bbox": torch.stack(distances).sum() / divisor,
        }


def has_sides(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...] bool: whether a box is large enough to be proposed."""
    return (boxes[..., 2:] - boxes[..., :2] >= SMALLEST).all(dim=-1)


def box_loss(deltas: Tensor, aims: Tensor, beta: float) -> Tensor:
    """Summed smooth L1 (arXiv 1504.08083), quadratic below `beta`, with 0 L1: [P, 4] both -> []."""
    return F.smooth_l1_loss(deltas, aims, beta=beta, reduction="sum")


def _cells(maps: Tensor, width: int) -> Tensor:
    """[N, a * width, H, W] -> [N, H * W * a, width] in full precision."""
    return at_least_float32(maps).permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)
