"""Which anchor learns which box: adaptive training sample selection, ATSS (arXiv 1912.02424)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from crosskd.boxes.anchors import Anchors, valid_sizes
from crosskd.boxes.ops import iou
from crosskd.boxes.pieces import pieces
from crosskd.structures import Assignment, Size, Targets

TOP = 9  # candidates per box and level
INSIDE = 0.01  # pixels; an anchor nearer to a side than this is not inside


def atss(anchors: Anchors, sizes: Sequence[Size], strides: Sequence[int], targets: Targets, classes: int) -> Assignment:
    """Assign every anchor of the batch in one go.

    A box's candidates are, on each level, the `TOP` anchors whose centres are nearest to its own. Positive are
    those whose IoU reaches the mean plus the standard deviation of all its candidates' and whose centre lies in
    the box. An anchor that several boxes claim goes to the one it overlaps most. Anchors in the batch padding
    are never candidates and have label weight 0.

    Images of the same padded size share every step, since the candidates are drawn from the same anchors.
    """
    groups: dict[tuple[Size, ...], list[int]] = defaultdict(list)
    for i, padded in enumerate(targets.padded):
        groups[tuple(valid_sizes(sizes, strides, padded))].append(i)

    images, total = len(targets.boxes), len(anchors.centres)
    starts = [0]
    for boxes in targets.boxes:
        starts.append(starts[-1] + len(boxes))
    weights = anchors.centres.new_zeros(images, total)
    places, overlaps, owners = [], [], []
    for valid, members in groups.items():
        weights[members] = inside(sizes, valid, weights.device).to(weights.dtype)
        boxes = torch.cat([targets.boxes[i] for i in members])
        if len(boxes) == 0:
            continue
        candidates = nearest_anchors(boxes, sizes, valid, strides, anchors.level_sizes)  # [G, k]
        owner = torch.cat([torch.arange(starts[i], starts[i + 1], device=boxes.device) for i in members])
        image = torch.cat([torch.full((len(targets.boxes[i]),), i, device=boxes.device) for i in members])
        places.append((candidates + image[:, None] * total).flatten())
        overlaps.append(_positive_overlaps(boxes, candidates, anchors).flatten())
        owners.append(owner[:, None].expand_as(candidates).flatten())
    winner = _winners(places, overlaps, owners, images * total, starts[-1], anchors.centres)
    return from_winners(winner.view(images, total), weights, anchors.level_sizes, targets, classes)


def inside(sizes: Sequence[Size], valid: Sequence[Size], device: torch.device, per_cell: int = 1) -> Tensor:
    """[A] bool: whether the anchor's cell lies in the image and its own padding."""
    masks = []
    for (height, width), (rows, columns) in zip(sizes, valid, strict=True):
        mask = torch.zeros(height, width, dtype=torch.bool, device=device)
        mask[:rows, :columns] = True
        masks.append(mask.flatten().repeat_interleave(per_cell))
    return torch.cat(masks)


def nearest_anchors(
    boxes: Tensor, sizes: Sequence[Size], valid: Sequence[Size], strides: Sequence[int], level_sizes: list[int]
) -> Tensor:
    """[G, k]: indices of the `TOP` anchors nearest to each box's centre on each level, of one anchor a cell.

    The distance is sought among the valid anchors alone, in their own order: anchors at the very same distance
    are common (a box centred between two cells), and this order decides between them as the reference does.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2  # [G, 2]
    found, start = [], 0
    for (_, width), (rows, columns), stride, count in zip(sizes, valid, strides, level_sizes, strict=True):
        nearest = torch.cat(
            [_nearest(centre[cut], rows, columns, stride) for cut in pieces(len(boxes), rows * columns)]
        )
        found.append(start + nearest // columns * width + nearest % columns)
        start += count
    return torch.cat(found, dim=1)


def _nearest(centre: Tensor, rows: int, columns: int, stride: int) -> Tensor:
    """[G, k]: the `TOP` cells, of `rows` times `columns`, whose corners are nearest to each of `centre` [G, 2]."""
    x = torch.arange(columns, device=centre.device, dtype=centre.dtype) * stride - centre[:, :1]  # [G, columns]
    y = torch.arange(rows, device=centre.device, dtype=centre.dtype) * stride - centre[:, 1:]  # [G, rows]
    distance = (x.square()[:, None, :] + y.square()[:, :, None]).sqrt().flatten(1)  # [G, rows * columns]
    return distance.topk(min(TOP, rows * columns), dim=1, largest=False).indices


def threshold(overlap: Tensor) -> Tensor:
    """[G, k] -> [G]: the IoU from which a box's candidates are positive, the mean of theirs plus their deviation."""
    # A lone candidate has no spread: its deviation is 0 rather than 0 / 0.
    spread = overlap.std(dim=1, correction=min(1, overlap.shape[1] - 1))
    return overlap.mean(dim=1) + spread


def _positive_overlaps(boxes: Tensor, candidates: Tensor, anchors: Anchors) -> Tensor:
    """[G, k]: the IoU of each candidate that is positive for its box, -1 for the others."""
    centres = anchors.centres[candidates]  # [G, k, 2]
    half = anchors.extents[candidates] / 2
    target = boxes[:, None]  # [G, 1, 4]
    overlap = iou(torch.cat((centres - half, centres + half), dim=-1), target)
    margins = torch.cat((centres - target[..., :2], target[..., 2:] - centres), dim=-1)
    positive = (overlap >= threshold(overlap)[:, None]) & (margins.amin(dim=-1) > INSIDE)
    return torch.where(positive, overlap, overlap.new_tensor(-1.0))


def _winners(
    places: list[Tensor], overlaps: list[Tensor], owners: list[Tensor], count: int, boxes: int, like: Tensor
) -> Tensor:
    """[count] long: which box (numbered over the batch) each anchor learns; `boxes` where none.

    Among equal overlaps the first box wins, so the result does not depend on the order of threads.
    """
    winner = torch.full((count,), boxes, dtype=torch.long, device=like.device)
    if not places:
        return winner
    place, overlap, owner = torch.cat(places), torch.cat(overlaps), torch.cat(owners)
    best = torch.full((count,), -1.0, dtype=overlap.dtype, device=like.device)
    best.scatter_reduce_(0, place, overlap, "amax")
    wins = (overlap >= 0) & (overlap == best[place])
    return winner.scatter_reduce_(0, place, torch.where(wins, owner, owner.new_tensor(boxes)), "amin")


def from_winners(winner: Tensor, weights: Tensor, level_sizes: list[int], targets: Targets, classes: int) -> Assignment:
    """From box numbers [N, A], counted over the batch, to labels and boxes; behind the last box is the background.

    `weights` [N, A] are the label weights.
    """
    label_of = torch.cat((*targets.labels, torch.full((1,), classes, dtype=torch.long, device=winner.device)))
    box_of = torch.cat((*targets.boxes, weights.new_zeros(1, 4)))
    labels = label_of[winner]
    positives = (labels < classes).sum(dim=1).tolist()
    return Assignment(labels, weights, box_of[winner], positives, level_sizes)
