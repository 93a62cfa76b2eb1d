"""FCOS (arXiv 1904.01355): points instead of anchors, boxes as four distances, centerness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.anchors import Anchors, cell_points
from crosskd.boxes.assign_points import points_in_boxes
from crosskd.boxes.coding import decode_distances
from crosskd.detectors.dense.hard_label_losses import centerness_losses, centerness_target
from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.losses import EPSILON, at_least_float32, rank_mean
from crosskd.spec.config import ModelConfig
from crosskd.structures import Assignment, Losses, Predictions, Size, Targets

REFERENCE_FLOOR = 1e-6  # of the summed centerness, in the reference


class FCOS(DenseHead):
    """The box code is four distances: exp of the scaled output, in pixels; with `norm_on_bbox` its ReLU, in strides."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.config = config.head

    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        config = self.config
        return cell_points(sizes, self.strides, config.point_offset, like, spread=config.spread_cells)

    def _code(self, code: Tensor, level: int) -> Tensor:  # noqa: ARG002
        code = at_least_float32(code)  # an exponential soon leaves half precision
        return F.relu(code) if self.config.norm_on_bbox else code.exp()

    def _centerness_input(self, cls: Tensor, box: Tensor) -> Tensor:
        return box if self.config.centerness_on_reg else cls

    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        sizes = map_sizes(predictions.cls)
        points = self.anchors(sizes, targets.table.boxes)
        radius = self.config.center_radius if self.config.center_sampling else None
        assignment = points_in_boxes(points, self.strides, targets, self.num_classes, radius=radius)
        return replace(assignment, centerness=centerness_target(assignment, points, self.num_classes))

    def normaliser(self, assignment: Assignment) -> Tensor:
        """The positives of the batch, averaged over ranks, at least 1."""
        return rank_mean(assignment.positives.sum().to(assignment.label_weights.dtype), least=1)

    def mimic_normaliser(self, assignment: Assignment, *, reference: bool = False) -> Tensor:
        """The summed centerness of the positives, averaged over ranks, at least 1.

        The reference divides by as little as 1e-6, which multiplies a loss that is mostly background: by a million in
        a batch without a positive, by fifty in one whose only positive lies at its box's rim (centerness 0.02).
        """
        return self._centerness_sum(assignment, least=REFERENCE_FLOOR if reference else 1.0)

    def _centerness_sum(self, assignment: Assignment, least: float = 0.0) -> Tensor:
        assert assignment.centerness is not None
        return rank_mean(assignment.centerness.sum(), least)

    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """Focal, box and centerness loss; the second is divided by the positives' summed centerness."""
        total = self._centerness_sum(assignment).clamp(min=REFERENCE_FLOOR)
        return centerness_losses(self, predictions, assignment, lambda _: total + EPSILON)

    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        if self.config.norm_on_bbox:
            codes = codes * anchors.strides[:, None]
        return decode_distances(anchors.centres, codes)
