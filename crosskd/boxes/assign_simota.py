"""Which point learns which box: SimOTA, by what is predicted there, as YOLOX does (arXiv 2107.08430)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors
from crosskd.boxes.assign import from_winners
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
    scores: Callable[[int, Tensor], Tensor]  # an image and some classes [U] -> their scores, [U, A]
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
    winners, qualities, start = [], [], 0
    background = sum(len(boxes) for boxes in targets.boxes)
    for image, (boxes, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
        winner = torch.full((len(points.centres),), background, dtype=torch.long, device=said.boxes.device)
        quality = said.boxes.new_zeros(len(winner))
        wanted = boxes.to(said.boxes.dtype)
        candidate = _in_or_near_any(points, wanted).nonzero()[:, 0]
        if len(candidate):
            owner, overlap = _owners(points.take(candidate), said, image, candidate, wanted, labels)
            taken = owner >= 0
            winner[candidate[taken]] = owner[taken] + start
            quality[candidate[taken]] = overlap[taken]
        winners.append(winner)
        qualities.append(quality)
        start += len(boxes)
    weights = torch.ones_like(said.background)
    found = from_winners(torch.stack(winners), weights, points.level_sizes, targets, classes)
    return replace(found, quality=torch.stack(qualities))


def _inside(points: Anchors, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[G, A] bool both: whether the point lies in the box, off its sides; and whether it is near its centre."""
    within = encode_distances(points.centres[None], boxes[:, None]).amin(-1) > 0
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    near = (points.centres[None] - centre).abs().amax(-1) < RADIUS * points.strides
    return within, near


def _in_or_near_any(points: Anchors, boxes: Tensor) -> Tensor:
    """[A] bool."""
    found = torch.zeros(len(points.centres), dtype=torch.bool, device=boxes.device)
    for cut in pieces(len(boxes), len(points.centres)):
        within, near = _inside(points, boxes[cut])
        found |= (within | near).any(dim=0)
    return found


def _owners(
    points: Anchors, said: Said, image: int, candidate: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Each candidate's box, -1 for none, and their IoU, [C] both; `points` are the candidates'."""
    named, place = torch.unique(labels, return_inverse=True)
    scores = said.scores(image, named)[:, candidate]  # [U, C]
    background = said.background[image, candidate]

    def cost(cut: slice, overlap: Tensor) -> Tensor:
        own = scores[place[cut]]  # [G, C]
        entropy = background - nothing_there(own) - own.log().clamp(min=LOG_FLOOR)
        within, near = _inside(points, boxes[cut])
        return entropy - IOU_WEIGHT * (overlap + IOU_FLOOR).log() + ELSEWHERE * ~(within & near)

    return dynamic_k(said.boxes[image, candidate], boxes, cost, TOP)
