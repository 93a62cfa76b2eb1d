"""Generalized focal loss, GFL (arXiv 2006.04388): classes as localisation quality, box sides as distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosskd.boxes.anchors import Anchors, square_anchors
from crosskd.boxes.assign import atss
from crosskd.boxes.coding import decode_distances, encode_distances, expected_bin
from crosskd.boxes.ops import giou, iou
from crosskd.config import ModelConfig
from crosskd.detectors.head import DenseHead, flatten, map_sizes, prediction
from crosskd.losses import EPSILON, bins_divergence, distribution_focal, level_sums, quality_focal, rank_mean
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

PRIOR = 0.01  # probability of every class at the start, so that the many backgrounds do not drown the rest
SIDES = 4
LAST_BIN_MARGIN = 0.1  # a distance target stays this far below the last bin: it must have a bin on either side


class GFL(DenseHead):
    """Class logits are quality scores; each box side is a distribution over distances 0..reg_max, in strides."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.weights = config.losses
        self.anchor_scale = config.anchor_scale
        self.reg_max = config.head.reg_max
        self.cls = prediction(self.channels, num_classes, bias=-math.log((1 - PRIOR) / PRIOR))
        self.box = prediction(self.channels, SIDES * (self.reg_max + 1))
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in self.strides)
        self.bins: Tensor
        self.register_buffer("bins", torch.linspace(0, self.reg_max, self.reg_max + 1))

    def _predict(self, cls: Tensor, box: Tensor, level: int) -> tuple[Tensor, Tensor]:
        return self.cls(cls), self.box(box) * self.scales[level]

    def _per_side(self, logits: Tensor) -> Tensor:
        """[..., 4 * (R + 1)] -> [..., 4, R + 1]."""
        return logits.reshape(*logits.shape[:-1], SIDES, self.reg_max + 1)

    def _anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        return square_anchors(sizes, self.strides, self.anchor_scale, device=like.device, dtype=like.dtype)

    def assign(self, sizes: Sequence[Size], targets: Targets) -> Assignment:
        anchors = self._anchors(sizes, targets.boxes[0])
        return atss(anchors, sizes, self.strides, targets, self.num_classes)

    def loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Quality focal, GIoU and distribution focal loss, each [L].

        The first is divided by the number of positives, where an image without any counts as one; the other two
        weigh each positive by its best class probability and are divided by the sum of these, at least 1.
        Both numbers are averaged over ranks.
        """
        with torch.autocast(predictions.cls[0].device.type, enabled=False):
            return self._loss(predictions, assignment)

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        logits = flatten(predictions.cls)  # [N, A, K]
        anchors = self._anchors(map_sizes(predictions.cls), logits)
        image, anchor = (assignment.labels < self.num_classes).nonzero(as_tuple=True)  # [P] each
        bins = self._per_side(flatten(predictions.box)[image, anchor])  # [P, 4, R + 1]
        stride = anchors.strides[anchor, None]
        point = anchors.centres[anchor] / stride  # everything about boxes in strides from here
        target = assignment.boxes[image, anchor].to(logits.dtype) / stride  # [P, 4]
        box = decode_distances(point, expected_bin(bins, self.bins.to(bins.dtype)))
        distance = encode_distances(point, target).clamp(0, self.reg_max - LAST_BIN_MARGIN)

        quality = torch.zeros_like(logits)
        quality[image, anchor, assignment.labels[image, anchor]] = iou(box.detach(), target)
        focal = quality_focal(logits, quality, self.weights.quality_focal_beta).sum(-1) * assignment.label_weights
        weight = logits.detach()[image, anchor].sigmoid().amax(-1)  # [P]
        total = rank_mean(weight.sum()).clamp(min=1)

        def per_level(values: Tensor) -> Tensor:  # [P] -> [L]
            spread = values.new_zeros(assignment.labels.shape).index_put((image, anchor), values)
            return level_sums(spread, assignment.level_sizes)

        overlap = per_level((1 - giou(box, target)) * weight)
        bin_loss = per_level(distribution_focal(bins, distance).sum(-1) * weight)
        return {
            "loss_cls": level_sums(focal, assignment.level_sizes)
            * (self.weights.quality_focal / (self.normaliser(assignment) + EPSILON)),
            "loss_bbox": overlap * (self.weights.giou / (1 + EPSILON)) / total,
            "loss_dfl": bin_loss * (self.weights.distribution_focal / (SIDES + EPSILON)) / total,
        }

    def mimic_boxes(
        self,
        predictions: Predictions,
        teacher: Predictions,
        importance: Tensor,
        assignment: Assignment,
        temperature: float,
    ) -> Tensor:
        """Mean KL divergence of the sides' distributions, each anchor weighed by `importance` [N, A] -> [L].

        The divisor is the sum of `importance` over all levels of this rank, as the published results were made.
        """
        ours, theirs = self._per_side(flatten(predictions.box)), self._per_side(flatten(teacher.box))
        divergence = bins_divergence(ours, theirs, temperature)  # [N, A, 4]
        total = importance.sum()
        # Nothing to weigh by means nothing to learn: 0, where 0 / 0 would end the run.
        total = torch.where(total > 0, total, torch.ones_like(total))
        return level_sums(divergence.sum(-1) * importance, assignment.level_sizes) / (SIDES + EPSILON) / total

    def decode(self, code: Tensor, places: Tensor, width: int, level: int) -> Tensor:
        stride = self.strides[level]
        distances = expected_bin(self._per_side(code), self.bins.to(code.dtype))
        points = torch.stack((places % width, places // width), dim=1).to(code.dtype) * stride
        return decode_distances(points, distances * stride)
