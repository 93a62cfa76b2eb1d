"""Which point learns which box: SimOTA, by what is predicted there, as YOLOX does (arXiv 2107.08430)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import from_winners, own_places
from crosskd.boxes.coding import encode_distances
from crosskd.boxes.dynamic_k import dynamic_k
from crosskd.boxes.pieces import pieces
from crosskd.structures import Assignment, Targets

TOP = 10  # candidates whose IoUs say how many of them a box gets
RADIUS = 2.5  # strides from a box's centre within which a point is near it, along both axes
IOU_WEIGHT = 3.0
IOU_FLOOR = 1e-7  # added before the logarithm
ELSEWHERE = 1e5  # what it costs a point not to be both in the box and near its centre
LOG_FLOOR = -100.0  # of a logarithm of a probability, as torch's cross entropy has it


@dataclass(frozen=True)
class Said:
    """What a head predicts of every point, in full precision and without a gradient.

    A score is the root of a class's probability times the objectness.
    """

    background: Tensor  # [N, A]: `nothing_there` summed over all classes
    scores: Callable[[Tensor], Tensor]  # a class of each of some boxes [N, G] -> their scores, [N, G, A]
    boxes: Tensor  # [N, A, 4] pixels


def nothing_there(scores: Tensor) -> Tensor:
    """The cross entropy of classes that are not there, elementwise."""
    return -(1 - scores).log().clamp(min=LOG_FLOOR)


@torch.no_grad()
def simota(points: Anchors, said: Said, targets: Targets, classes: int) -> Assignment:
    """Each box gets its cheapest candidates, as many as the IoUs of the best of them add up to, one at least.

    `points` are the middles of the cells; those in the batch padding count as all others. Candidates lie in any box of
    the image or near the centre of any. What one costs a box: the cross entropy of its classes' scores, the IoU's
    logarithm, and much where it is not in this box and near its centre. A point that several boxes take goes to the
    one, of all boxes of the image, that it costs least.
    """
    table = targets.table
    boxes = table.boxes.to(said.boxes.dtype)
    candidate = _in_or_near_any(points, boxes, table.there)

    def cost(cut: slice, overlap: Tensor) -> Tensor:
        own = said.scores(table.labels[:, cut])  # [N, G, A]
        entropy = said.background[:, None] - nothing_there(own) - own.log().clamp(min=LOG_FLOOR)
        within, near = _inside(points, boxes[:, cut])
        return entropy - IOU_WEIGHT * (overlap + IOU_FLOOR).log() + ELSEWHERE * ~(within & near)

    owner, quality = dynamic_k(said.boxes, boxes, table.there, candidate, cost, TOP)
    weights = torch.ones_like(said.background)
    found = from_winners(own_places(owner, boxes.shape[1]), weights, points.level_sizes, targets, classes)
    return replace(found, quality=quality, most=TOP * len(table.place))


def _inside(points: Anchors, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[N, G, A] bool both: whether the point lies in the box, off its sides; and whether it is near its centre."""
    boxes = boxes[:, :, None]
    within = encode_distances(points.centres, boxes).amin(-1) > 0
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = (points.centres - centre).abs().amax(-1) < RADIUS * points.strides
    return within, near


def _in_or_near_any(points: Anchors, boxes: Tensor, there: Tensor) -> Tensor:
    """[N, A] bool, of the boxes [N, G, 4] that are `there` [N, G]."""
    found = torch.zeros(len(boxes), len(points.centres), dtype=torch.bool, device=boxes.device)
    for cut in pieces(boxes.shape[1], found.numel()):
        within, near = _inside(points, boxes[:, cut])
        found |= ((within | near) & there[:, cut, None]).any(dim=1)
    return found
