"""Which point learns which box: by what is predicted there, as RTMDet does (arXiv 2212.07784, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from crosskd.boxes.anchors import Anchors, valid_sizes
from crosskd.boxes.assign import from_winners, inside
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
    logits: Callable[[int, Tensor], Tensor]  # an image and some classes [U] -> their logits, [U, A]
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
    winners, weights, qualities, start = [], [], [], 0
    background = sum(len(boxes) for boxes in targets.boxes)
    for image, (boxes, labels, padded) in enumerate(zip(targets.boxes, targets.labels, targets.padded, strict=True)):
        valid = inside(sizes, valid_sizes(sizes, strides, padded), points.centres.device)
        winner = torch.full_like(valid, background, dtype=torch.long)
        quality = said.boxes.new_zeros(len(valid))
        candidate = (valid & _in_any(points.centres, boxes)).nonzero()[:, 0]
        if len(candidate):
            named, place = torch.unique(labels, return_inverse=True)
            of = _Candidates(
                points.take(candidate),
                said.boxes[image, candidate],
                said.background[image, candidate],
                said.logits(image, named)[:, candidate],
            )
            wanted = boxes.to(said.boxes.dtype)

            def cost(
                cut: slice, overlap: Tensor, of: _Candidates = of, boxes: Tensor = wanted, place: Tensor = place
            ) -> Tensor:
                return _cost(of, boxes[cut], place[cut], overlap)

            owner, overlap = dynamic_k(of.boxes, wanted, cost, TOP)
            taken = owner >= 0
            winner[candidate[taken]] = owner[taken] + start
            quality[candidate[taken]] = overlap[taken]
        winners.append(winner)
        weights.append(valid.to(points.centres.dtype))
        qualities.append(quality)
        start += len(boxes)
    found = from_winners(torch.stack(winners), torch.stack(weights), points.level_sizes, targets, classes)
    return replace(found, quality=torch.stack(qualities))


def _in_any(centres: Tensor, boxes: Tensor) -> Tensor:
    """[A] bool: whether the point lies in any of the boxes [G, 4], off their sides."""
    found = torch.zeros(len(centres), dtype=torch.bool, device=centres.device)
    for cut in pieces(len(boxes), len(centres)):
        found |= (encode_distances(centres[:, None], boxes[None, cut]).amin(-1) > 0).any(dim=1)
    return found


@dataclass(frozen=True)
class _Candidates:
    """Those of an image."""

    points: Anchors
    boxes: Tensor  # [C, 4]
    background: Tensor  # [C]
    logits: Tensor  # [U, C] of the classes that the image's boxes have


def _cost(said: _Candidates, boxes: Tensor, labels: Tensor, overlap: Tensor) -> Tensor:
    """What each candidate costs each box, [G, C].

    The classes' part is that of a candidate without an object, but for the box's own class.
    """
    own = said.logits[labels]  # [G, C]
    aimed = F.binary_cross_entropy_with_logits(own, overlap, reduction="none") * (overlap - own.sigmoid()).square()
    classes = said.background - nothing_there(own) + aimed
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (said.points.centres[None] - centre[:, None]).norm(dim=-1) / said.points.strides
    return classes - IOU_WEIGHT * (overlap + IOU_FLOOR).log() + torch.pow(10.0, distance - REACH)
