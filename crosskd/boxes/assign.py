"""Which anchor learns which box: adaptive training sample selection, ATSS (arXiv 1912.02424)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
    table, total = targets.table, len(anchors.centres)
    images, most = table.boxes.shape[:2]
    places, overlaps, owners = [], [], []
    for valid, owner in by_padding(targets, sizes, strides):
        boxes = table.boxes.flatten(0, 1)[owner]
        candidates = nearest_anchors(boxes, sizes, valid, strides, anchors.level_sizes)  # [G, k]
        places.append((candidates + (owner // most * total)[:, None]).flatten())
        overlaps.append(_positive_overlaps(boxes, candidates, anchors).flatten())
        owners.append(owner[:, None].expand_as(candidates).flatten())
    winner = _winners(places, overlaps, owners, images * total, images * most, anchors.centres)
    weights = inside(targets, sizes, strides).to(anchors.centres.dtype)
    found = from_winners(winner.view(images, total), weights, anchors.level_sizes, targets, classes)
    return replace(found, most=sum(len(place) for place in places))


def by_padding(
    targets: Targets, sizes: Sequence[Size], strides: Sequence[int]
) -> Iterator[tuple[tuple[Size, ...], Tensor]]:
    """The boxes [G] of all images whose padded size is the same, by their places in the table, and its cells.

    Of the cells see `valid_sizes`. What has no box is left out.
    """
    groups: dict[tuple[Size, ...], list[int]] = defaultdict(list)
    for image, padded in enumerate(targets.padded):
        if len(targets.boxes[image]):
            groups[tuple(valid_sizes(sizes, strides, padded))].append(image)
    place = targets.table.place
    each = torch.split(place, [len(boxes) for boxes in targets.boxes]) if len(groups) > 1 else ()
    for valid, members in groups.items():
        yield valid, torch.cat([each[image] for image in members]) if each else place


def inside(targets: Targets, sizes: Sequence[Size], strides: Sequence[int], per_cell: int = 1) -> Tensor:
    """[N, A] bool: whether the anchor's cell lies in the image and its own padding."""
    padded = targets.table.padded  # [N, 2]
    masks = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        rows, columns = ((padded + (stride - 1)) // stride).unbind(1)
        down = torch.arange(height, device=padded.device) < rows[:, None]
        across = torch.arange(width, device=padded.device) < columns[:, None]
        mask = (down[:, :, None] & across[:, None]).flatten(1)
        masks.append(mask[..., None].expand(-1, -1, per_cell).flatten(1))
    return torch.cat(masks, dim=1)


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
    return torch.where(positive, overlap, -1.0)


def _winners(
    places: list[Tensor], overlaps: list[Tensor], owners: list[Tensor], count: int, nobody: int, like: Tensor
) -> Tensor:
    """[count] long: which box (its place in the table) each anchor learns; `nobody` where none.

    Among equal overlaps the first box wins, so the result does not depend on the order of threads.
    """
    winner = torch.full((count,), nobody, dtype=torch.long, device=like.device)
    if not places:
        return winner
    place, overlap, owner = torch.cat(places), torch.cat(overlaps), torch.cat(owners)
    best = torch.full((count,), -1.0, dtype=overlap.dtype, device=like.device)
    best.scatter_reduce_(0, place, overlap, "amax")
    wins = (overlap >= 0) & (overlap == best[place])
    return winner.scatter_reduce_(0, place, torch.where(wins, owner, nobody), "amin")


def own_places(owner: Tensor, most: int) -> Tensor:
    """From the number of a box in its image [N, A], -1 for none, to its place in a table of `most` boxes an image."""
    start = torch.arange(len(owner), device=owner.device)[:, None] * most
    return torch.where(owner >= 0, owner + start, len(owner) * most)


def from_winners(winner: Tensor, weights: Tensor, level_sizes: list[int], targets: Targets, classes: int) -> Assignment:
    """From boxes' places in the table of the targets [N, A] to labels and boxes; behind the last is the background.

    `weights` [N, A] are the label weights.
    """
    table = targets.table
    background = torch.full((1,), classes, dtype=torch.long, device=winner.device)
    labels = torch.cat((table.labels.flatten(), background))[winner]
    boxes = torch.cat((table.boxes.flatten(0, 1), table.boxes.new_zeros(1, 4)))[winner]
    return Assignment(labels, weights, boxes, (labels < classes).sum(dim=1), level_sizes)
