"""Predictions of a decoder's queries that imitate the teacher's, layer by layer and query by query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crosskd.boxes.ops import overlap_loss
from crosskd.detectors.detr.ports.port import LayerPredictions
from crosskd.losses import EPSILON, at_least_float32, bins_divergence, quality_focal, rank_own
from crosskd.spec.config import MimicConfig
from crosskd.structures import Losses, Size

SIDES = 4


def mimic_queries(
    name: str,
    layers: Sequence[tuple[LayerPredictions, LayerPredictions]],
    scales: Sequence[Size],
    config: MimicConfig,
) -> Losses:
    """The distances between both of each layer that have a weight, `{name}_cls` and so on, each [M], one a layer.

    `layers` are ours and the teacher's, of the same queries; `scales` says of which (height, width) each image's boxes
    are shares. `config` has been resolved for the pair. All queries count; nothing is matched. Formulas: the authors'
    branch `deformable-detr`. Classes: cross entropy with the teacher's probabilities, divided by the number of queries.
    Boxes: each query weighed by the teacher's best probability, divided by 4 times the sum of these. The distributions
    of D-FINE are compared as GFL's are, and weighed as boxes.
    """
    found = [_layer(ours, theirs, scales, config) for ours, theirs in layers]
    return {f"{name}_{term}": torch.stack([each[term] for each in found]) for term in found[0]}


def _layer(
    ours: LayerPredictions, theirs: LayerPredictions, scales: Sequence[Size], config: MimicConfig
) -> dict[str, Tensor]:
    """What the caller has not detached of `theirs`, boxes and their weights, has a gradient, as in the reference."""
    assert config.beta is not None
    logits, aim = at_least_float32(ours.logits), at_least_float32(theirs.logits)
    losses: dict[str, Tensor] = {}
    if config.cls_weight:
        queries = rank_own(logits.new_tensor(float(logits[..., 0].numel()))) + EPSILON
        losses["cls"] = config.cls_weight * quality_focal(logits, aim.sigmoid(), config.beta).sum() / queries
    worth = aim.sigmoid().amax(dim=-1)  # [B, Q]
    divisor = rank_own(SIDES * worth.sum()) + EPSILON
    boxes, goal = at_least_float32(ours.boxes), at_least_float32(theirs.boxes)
    if config.box_weight:
        pair = (boxes, goal) if config.giou else (in_pixels(boxes, scales), in_pixels(goal, scales))
        distance = (pair[0] - pair[1]).abs().sum(-1)
        losses["box"] = config.box_weight * (worth * distance).sum() / divisor
    if config.giou and config.giou_weight:
        distance = overlap_loss(in_pixels(boxes, scales), in_pixels(goal, scales), "giou")
        losses["giou"] = config.giou_weight * (worth * distance).sum() / divisor
    if config.bins_weight and ours.corners is not None and theirs.corners is not None:
        distance = bins_divergence(_by_side(ours.corners), _by_side(theirs.corners), config.temperature).sum(-1)
        losses["bins"] = config.bins_weight * (worth * distance).sum() / divisor
    return losses


def _by_side(corners: Tensor) -> Tensor:
    """[B, Q, 4 (bins + 1)] -> [B, Q, 4, bins + 1]."""
    return at_least_float32(corners).reshape(*corners.shape[:-1], SIDES, -1)


def in_pixels(boxes: Tensor, scales: Sequence[Size]) -> Tensor:
    """[B, Q, 4], centre and size in shares of each image's (height, width) -> corners in pixels."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    sides = boxes.new_tensor([[width, height, width, height] for height, width in scales])
    return torch.cat((centre - half, centre + half), dim=-1) * sides[:, None]
