"""Regions of a batch that the second stage learns from: which there are, and what each is to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from crosskd.structures import Targets


@dataclass(frozen=True)
class Regions:
    """Of each image the positives, then the negatives; one image after the other, R in all."""

    boxes: list[Tensor]  # N times [R_i, 4]
    labels: Tensor  # [R] long: 0..K-1, K background
    aims: Tensor  # [R, 4]: the box that a positive learns, 0 elsewhere
    positives: list[int]  # per image
    negatives: list[int]  # per image

    @property
    def all_boxes(self) -> Tensor:
        """[R, 4]."""
        return torch.cat(self.boxes)


@dataclass(frozen=True)
class RegionPredictions:
    """What a region head says of R regions."""

    cls: Tensor  # [R, K + 1] logits, the background last
    box: Tensor  # [R, K, 4] deltas, of each class its own


class Sampler:
    """Anchors or regions to learn from: `count` an image at most, at most a share of them positives, by chance.

    Positive is what overlaps a box by `high` (and, with `best_of_each`, what overlaps a box best of all, however
    little); negative what overlaps none by `low`.
    """

    def __init__(self, high: float, low: float, count: int, share: float, *, best_of_each: bool) -> None:
        self._matcher = Matcher(high, low, allow_low_quality_matches=best_of_each)
        self._sampler = BalancedPositiveNegativeSampler(count, share)

    def match(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """[A, 4] and [G, 4] -> [A] long: the box that each learns, -1 background, -2 nothing."""
        if not len(truth) or not len(boxes):
            return torch.full((len(boxes),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.long, device=boxes.device)
        matches: Tensor = self._matcher(box_iou(truth, boxes))
        return matches

    def sample(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """[A] as `match` makes them -> the places of positives and of negatives, each in ascending order."""
        kinds = torch.where(matches >= 0, 1.0, torch.where(matches == Matcher.BELOW_LOW_THRESHOLD, 0.0, -1.0))
        positive, negative = self._sampler([kinds])
        return positive[0].nonzero()[:, 0], negative[0].nonzero()[:, 0]


@torch.no_grad()
def sample_regions(proposals: Sequence[Tensor], targets: Targets, classes: int, sampler: Sampler) -> Regions:
    """Regions of a batch: the true boxes, then the `proposals` (N times [P_i, 4]), as far as `sampler` takes them."""
    boxes, labels, aims = [], [], []
    positives, negatives = [], []
    for found, truth, named in zip(proposals, targets.boxes, targets.labels, strict=True):
        truth = truth.to(found.dtype)
        candidates = torch.cat((truth, found))
        matches = sampler.match(candidates, truth)
        positive, negative = sampler.sample(matches)
        boxes.append(candidates[torch.cat((positive, negative))])
        aims += [truth[matches[positive]], found.new_zeros(len(negative), 4)]
        labels += [named[matches[positive]], named.new_full((len(negative),), classes)]
        positives.append(len(positive))
        negatives.append(len(negative))
    return Regions(boxes, torch.cat(labels), torch.cat(aims), positives, negatives)
