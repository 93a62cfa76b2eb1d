"""LD's valuable localisation region; tests/crosskd/distill/test_ld.py holds it against the paper's algorithm."""

from __future__ import annotations

import torch
from torch import Tensor

from crosskd.boxes.anchors import square_anchors
from crosskd.boxes.valuable import valuable_region
from crosskd.structures import Targets

SIZES, STRIDES, BOX = [(8, 8), (4, 4)], [8, 16], [8.0, 8.0, 56.0, 40.0]


def region(boxes: list[list[float]], gamma: float = 0.25, padded: tuple[int, int] = (64, 64)) -> Tensor:
    """[A] of one image."""
    targets = Targets([torch.tensor(boxes).reshape(-1, 4)], [torch.zeros(len(boxes)).long()], [padded], [padded])
    anchors = square_anchors(SIZES, STRIDES, 8.0, targets.boxes[0])
    found = valuable_region(anchors, SIZES, STRIDES, targets, gamma)
    assert found.shape == (1, 80)
    return found[0]


def test_it_grows_as_gamma_falls() -> None:
    sizes = [int((region([BOX], gamma) > 0).sum()) for gamma in (1.0, 0.5, 0.25, 0.1)]
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))


def test_it_is_weighed_by_the_overlap_with_the_best_of_its_boxes() -> None:
    other = [8.0, 24.0, 40.0, 60.0]
    both, first, second = region([BOX, other]), region([BOX]), region([other])
    assert torch.equal(both, torch.maximum(first, second))
    assert ((first > 0) & (second > 0)).any()


def test_padding_is_outside() -> None:
    narrow = region([[8.0, 8.0, 30.0, 40.0]], padded=(64, 32))
    first, second = narrow.split([64, 16])
    assert narrow.any()
    assert not first.view(8, 8)[:, 4:].any()
    assert not second.view(4, 4)[:, 2:].any()


def test_without_boxes_it_is_empty() -> None:
    assert not region([]).any()
