"""Which point learns which box: FCOS (arXiv 1904.01355)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import from_winners, own_places
from crosskd.boxes.coding import encode_distances
from crosskd.boxes.ops import area
from crosskd.boxes.pieces import pieces
from crosskd.structures import Assignment, Targets

REACH = 8  # strides: a level's points learn boxes whose farthest side is 4 to 8 strides away


def points_in_boxes(
    points: Anchors, strides: Sequence[int], targets: Targets, classes: int, *, radius: float | None
) -> Assignment:
    """Every point in a box learns it, if its farthest side is within the range of the point's level.

    The ranges are (-1, 64), (64, 128), ..., (512, infinity) for strides 8 to 128: all sizes are covered. In
    several boxes, a point learns the smallest. With `radius`, in strides, a point must also be that near to the
    box's centre, along both axes (centre sampling). Padding is not looked at: every label weight is 1.
    """
    lowest, highest = _ranges(points, strides)
    boxes = targets.table.boxes
    images, most = boxes.shape[:2]
    owners = []
    for cut in pieces(len(points.centres), images * most):
        smallest, box = _smallest(points.take(cut), boxes, (lowest[cut], highest[cut]), radius)
        owners.append(torch.where(smallest < math.inf, box, -1))
    weights = points.centres.new_ones(images, len(points.centres))
    winner = own_places(torch.cat(owners, dim=1), most)
    return from_winners(winner, weights, points.level_sizes, targets, classes)


def _smallest(
    points: Anchors, boxes: Tensor, ranges: tuple[Tensor, Tensor], radius: float | None
) -> tuple[Tensor, Tensor]:
    """Area and number of the smallest of the boxes [N, G, 4] that each point may learn, [N, A] both; infinite: none.

    No point lies in a place without a box.
    """
    lowest, highest = ranges
    boxes = boxes[:, None]
    distances = encode_distances(points.centres[:, None], boxes)  # [N, A, G, 4]
    farthest = distances.amax(-1)
    fits = (farthest >= lowest[:, None]) & (farthest <= highest[:, None])
    fits &= _within(points, boxes, distances, radius)
    smallest, box = torch.where(fits, area(boxes), math.inf).min(dim=2)
    return smallest, box


def _ranges(points: Anchors, strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The shortest and longest distance to a farthest side that each point learns, [A] each."""
    lowest = torch.where(points.strides == strides[0], -1.0, points.strides * REACH / 2)
    highest = torch.where(points.strides == strides[-1], math.inf, points.strides * REACH)
    return lowest, highest


def _within(points: Anchors, boxes: Tensor, distances: Tensor, radius: float | None) -> Tensor:
    """[N, A, G]: whether the point lies in the box, or in the middle part of it."""
    if radius is None:
        return distances.amin(-1) > 0
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2  # [N, 1, G, 2]
    reach = (radius * points.strides)[:, None, None]  # [A, 1, 1]
    upper = torch.max(centre - reach, boxes[..., :2])  # never beyond the box
    lower = torch.min(centre + reach, boxes[..., 2:])
    return encode_distances(points.centres[:, None], torch.cat((upper, lower), dim=-1)).amin(-1) > 0
