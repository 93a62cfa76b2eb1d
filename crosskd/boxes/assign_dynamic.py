"""Which point learns which box: by what is predicted there, as RTMDet does (arXiv 2212.07784, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import from_winners, inside, own_places
from crosskd.boxes.coding import encode_distances
from crosskd.boxes.dynamic_k import dynamic_k
from crosskd.boxes.pieces import pieces
from crosskd.structures import Assignment, Size, Targets

TOP = 13  # candidates whose IoUs say how many of them a box gets
IOU_WEIGHT = 3.0
IOU_FLOOR = 1e-7  # added before the logarithm
REACH = 3.0  # strides from a box's centre at which the distance costs 1; ten times as much each stride on


@dataclass(frozen=True)
class Said:
    """What a head predicts of every point, in full precision and without a gradient."""

    background: Tensor  # [N, A]: `nothing_there` summed over all classes
    logits: Callable[[Tensor], Tensor]  # a class of each of some boxes [N, G] -> their logits, [N, G, A]
    boxes: Tensor  # [N, A, 4] pixels, not clipped


def nothing_there(logits: Tensor) -> Tensor:
    """The quality focal loss of classes that are not there, elementwise."""
    return logits.sigmoid().square() * F.softplus(logits)


@torch.no_grad()
def dynamic_soft_label(
    points: Anchors, sizes: Sequence[Size], strides: Sequence[int], said: Said, targets: Targets, classes: int
) -> Assignment:
    """Each box gets its cheapest candidates, as many as the IoUs of the best of them add up to, one at least.

    Candidates are the points of the image's own padded size that lie in any of its boxes. What one costs a box: the
    quality focal loss of its classes, were its IoU the aim; the IoU's logarithm; the distance of the point from the
    box's centre. A point that several boxes take goes to the one, of all boxes of the image, that it costs least.
    Points in the batch padding have label weight 0.
    """
    table = targets.table
    boxes = table.boxes.to(said.boxes.dtype)
    valid = inside(targets, sizes, strides)
    candidate = valid & _in_any(points.centres, boxes)

    def cost(cut: slice, overlap: Tensor) -> Tensor:
        return _cost(points, said.background[:, None], said.logits(table.labels[:, cut]), boxes[:, cut], overlap)

    owner, quality = dynamic_k(said.boxes, boxes, table.there, candidate, cost, TOP)
    weights = valid.to(points.centres.dtype)
    found = from_winners(own_places(owner, boxes.shape[1]), weights, points.level_sizes, targets, classes)
    return replace(found, quality=quality, most=TOP * len(table.place))


def _in_any(centres: Tensor, boxes: Tensor) -> Tensor:
    """[N, A] bool: whether the point lies in any of the boxes [N, G, 4], off their sides; none where there is none."""
    found = torch.zeros(len(boxes), len(centres), dtype=torch.bool, device=centres.device)
    for cut in pieces(boxes.shape[1], found.numel()):
        found |= (encode_distances(centres, boxes[:, cut, None]).amin(-1) > 0).any(dim=1)
    return found


def _cost(points: Anchors, background: Tensor, own: Tensor, boxes: Tensor, overlap: Tensor) -> Tensor:
    """What each point costs each of the boxes [N, G, 4], whose classes have the logits `own`: [N, G, A].

    The classes' part is that of a point without an object, but for the box's own class.
    """
    aimed = F.binary_cross_entropy_with_logits(own, overlap, reduction="none") * (overlap - own.sigmoid()).square()
    classes = background - nothing_there(own) + aimed
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (points.centres - centre[:, :, None]).norm(dim=-1) / points.strides
    return classes - IOU_WEIGHT * (overlap + IOU_FLOOR).log() + torch.pow(10.0, distance - REACH)
