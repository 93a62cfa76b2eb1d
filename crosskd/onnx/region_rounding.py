"""Which regions of a two-stage detector rounding may decide about, and with them which of its detections.

PyTorch and onnxruntime add up in other orders: of two anchors that are nearly as good, or of two proposals that
overlap by just about the threshold, each may take another one. What a region says is then found by one side alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from crosskd.boxes.coding import decode_deltas
from crosskd.boxes.ops import area, clip
from crosskd.boxes.pieces import pieces
from crosskd.detectors.detector import Detector
from crosskd.detectors.two_stage import proposals
from crosskd.detectors.two_stage.head import RegionHead
from crosskd.detectors.two_stage.proposals import Objects
from crosskd.onnx.rounding import BOX_TOLERANCE, IOU_TOLERANCE, LOGIT_TOLERANCE, SCORE_TOLERANCE
from crosskd.spec.config import PostprocessConfig
from crosskd.structures import Candidates, Detections, Size


@dataclass(frozen=True)
class _Proposals:
    """One image's boxes that may be proposed, and whether one is not sure to be."""

    boxes: Tensor  # [P, 4]
    open: Tensor  # [P] bool


@torch.no_grad()
def look(detector: Detector, images: Tensor, sizes: Sequence[Size]) -> tuple[list[Detections], list[Candidates]]:
    """PyTorch's detections and candidates per image; `close` are those about which rounding decides.

    They are at the score threshold, or have hardly any area, or are of a region that is not sure to be proposed or to
    be pooled from the one level and no other.
    """
    head, config, features = detector.head, detector.config.postprocess, detector.features(images)
    objects = head.rpn.look(features)
    candidates = []
    for image, size in enumerate(sizes):
        proposed = _proposals(head, objects, image, size, config)
        candidates.append(_candidates(head, [maps[image : image + 1] for maps in features], proposed, size, config))
    return head.detect(features, sizes, config), candidates


def _proposals(head: RegionHead, objects: Objects, image: int, size: Size, config: PostprocessConfig) -> _Proposals:
    """See `ProposalNetwork.propose`: what may be kept there, by each limit."""
    boxes, logits, unsure, start = [], [], [], 0
    for count in objects.anchors.level_sizes:
        of_level, least = slice(start, start + count), head.config.rpn_score_threshold
        level, logit, open_ = _of_level(objects, image, size, config.pre_nms, least, of_level)
        left, undecided = survivors(level, logit, open_, head.config.rpn_nms_iou)
        boxes.append(level[left])
        logits.append(logit[left])
        unsure.append(undecided[left])
        start += count
    logit, open_ = torch.cat(logits), torch.cat(unsure)
    order = logit.argsort(descending=True)
    logit, open_, whole = logit[order], open_[order], torch.cat(boxes)[order]
    keep = head.config.proposals
    # How many may stand before one, and how many surely do: in ascending order of what is worse.
    worse = -logit
    may = torch.searchsorted(worse, worse + LOGIT_TOLERANCE, right=True) - 1
    surely = torch.searchsorted(worse[~open_], worse - LOGIT_TOLERANCE)
    inside = surely < keep
    return _Proposals(whole[inside], (open_ | (may >= keep))[inside])


def _of_level(
    objects: Objects, image: int, size: Size, pre_nms: int, least_score: float, level: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """The anchors that may be among the `pre_nms` best of a level, and good enough: boxes, logits, and which are not
    sure to be."""
    logits = objects.logits[image, level]
    order = logits.argsort(descending=True)
    open_ = torch.zeros_like(order, dtype=torch.bool)
    if len(order) > pre_nms:
        least = logits[order[pre_nms - 1]]
        order = order[logits[order] >= least - LOGIT_TOLERANCE]
        open_ = logits[order] <= least + LOGIT_TOLERANCE
    rows = order + level.start
    boxes = clip(decode_deltas(objects.anchors.take(rows).boxes(), objects.deltas[image, rows], proposals.STDS), size)
    least_side = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
    beyond = logits[order].sigmoid() - least_score
    there = (least_side > 0) & (beyond >= -SCORE_TOLERANCE)
    at_least = (beyond <= SCORE_TOLERANCE) & (least_score > 0)
    return boxes[there], logits[order][there], (open_ | at_least | (least_side <= BOX_TOLERANCE))[there]


def survivors(boxes: Tensor, logits: Tensor, unsure: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """What non-maximum suppression may leave of boxes [B, 4], best first, and what it is not sure to leave: [B] bool.

    `unsure` [B] are those that may not be there at all. A box is surely gone where one that is surely better and surely
    left overlaps it by surely more than the threshold; it is surely left where nothing may suppress it.
    """
    value = logits.numpy()
    left, open_ = np.zeros(len(value), dtype=bool), unsure.numpy().copy()
    rows = itertools.chain.from_iterable(box_iou(boxes[cut], boxes).numpy() for cut in pieces(len(value), len(value)))
    for row, overlap in enumerate(rows):
        rivals: NDArray[np.bool_] = overlap > threshold - IOU_TOLERANCE
        rivals[row] = False
        if not rivals.any():
            left[row] = True
            continue
        better = value > value[row] + LOGIT_TOLERANCE
        sure = left & ~open_ & better & (overlap > threshold + IOU_TOLERANCE)
        left[row] = not sure.any()
        # One that is about as good and comes later is not judged yet: it may be left.
        tied = np.abs(value - value[row]) <= LOGIT_TOLERANCE
        tied[:row] &= left[:row]
        open_[row] |= bool((rivals & ((left & better) | tied)).any())
    return torch.from_numpy(left), torch.from_numpy(open_)


def _candidates(
    head: RegionHead, features: Sequence[Tensor], proposed: _Proposals, size: Size, config: PostprocessConfig
) -> Candidates:
    """One image's (region, class) pairs; `features` are its own maps, [1, C, H_l, W_l]."""
    side = area(proposed.boxes).sqrt()
    level, other = (head.level_of((side + moved).clamp(min=0)) for moved in (-BOX_TOLERANCE, BOX_TOLERANCE))
    either = (level != other).nonzero()[:, 0]
    whole, level = torch.cat((proposed.boxes, proposed.boxes[either])), torch.cat((level, other[either]))
    open_ = torch.cat((proposed.open | (level[: len(side)] != other), torch.ones_like(either, dtype=torch.bool)))
    said = head.say(head.pool_at(features, whole, torch.zeros_like(level), level))
    scores = said.cls.softmax(-1)[:, :-1]
    row, label = (scores > config.score_threshold - SCORE_TOLERANCE).nonzero(as_tuple=True)
    score = scores[row, label]
    found = clip(decode_deltas(whole[row], said.box[row, label], head.config.box_stds), size)
    flat = (found[:, 2:] - found[:, :2]).amin(dim=1) <= BOX_TOLERANCE
    close = open_[row] | flat | (score <= config.score_threshold + SCORE_TOLERANCE)
    return Candidates(found, score, label, close)
