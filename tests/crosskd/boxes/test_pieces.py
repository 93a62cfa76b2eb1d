"""Assignments made a piece of the (box, anchor) table at a time: what the whole table gives, without its memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crosskd.boxes import pieces
from crosskd.boxes.valuable import valuable_region
from crosskd.structures import Predictions, Size, Targets
from tests.support import small
from tests.support.memory import peak_bytes

PADDED = (192, 320)
STRIDES = (8, 16, 32, 64, 128)
SIZES: list[Size] = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]


def crowd(count: int) -> Targets:
    """Two images of many boxes, on whole pixels, so that many overlap an anchor alike; the second has some padding."""
    generator = torch.Generator().manual_seed(count)
    images = []
    for _ in range(2):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([280.0, 150.0])
        extent = 2 + torch.rand(count, 2, generator=generator) ** 3 * 160
        images.append(torch.cat((corner, corner + extent), dim=1).round())
    padded = (PADDED[0], PADDED[1] - 64)
    return Targets(images, [torch.arange(count) % small.CLASSES] * 2, [PADDED, padded], [PADDED, padded])


def assigning(name: str, targets: Targets) -> Callable[[], list[Tensor]]:
    if name == "valuable region":
        head = small.detector(0, detector="gfl", depth=1).head
        anchors = head.anchors(SIZES, targets.boxes[0])
        return lambda: [valuable_region(anchors, SIZES, STRIDES, targets, 0.25)]
    head = small.detector(0, detector=name, depth=1).head

    generator = torch.Generator().manual_seed(1)
    scale = 2 if name == "yolox" else 40  # logarithms of strides, or pixels
    predictions = Predictions(
        [torch.randn(2, head.per_cell * head.num_classes, *size, generator=generator) for size in SIZES],
        [scale * torch.rand(2, head.per_cell * head.code_size, *size, generator=generator) for size in SIZES],
        objectness=[torch.randn(2, head.per_cell, *size, generator=generator) for size in SIZES],
    )

    def run() -> list[Tensor]:
        found = head.assign(predictions, targets)
        return [found.labels, found.label_weights, found.boxes]

    return run


KINDS = pytest.mark.parametrize("name", ["retinanet", "fcos", "gfl", "rtmdet", "yolox", "valuable region"])


@KINDS
@pytest.mark.parametrize(("boxes", "pairs"), [(2, 20), (100, 3000)])
def test_no_assignment_depends_on_the_pieces(
    name: str, boxes: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = assigning(name, crowd(boxes))
    monkeypatch.setattr(pieces, "PAIRS", 10**9)
    whole = run()
    monkeypatch.setattr(pieces, "PAIRS", pairs)
    assert all(torch.equal(a, b) for a, b in zip(run(), whole, strict=True))


@KINDS
def test_a_crowd_takes_a_part_of_its_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all boxes and anchors, of which it took several at once: with one piece it does."""
    boxes = 200 if name == "retinanet" else 1500
    run = assigning(name, crowd(boxes))
    monkeypatch.setattr(pieces, "PAIRS", 1 << 14)
    table = 4 * boxes * sum(height * width for height, width in SIZES) * (9 if name == "retinanet" else 1)
    assert peak_bytes(run) < table
    monkeypatch.setattr(pieces, "PAIRS", 10**9)
    assert peak_bytes(run) > 1.5 * table


@pytest.mark.parametrize(
    ("count", "each", "lengths"), [(0, 5, [0]), (10, 0, [10]), (10, 1, [4, 4, 2]), (3, 9, [1] * 3)]
)
def test_pieces_cover_all_rows(count: int, each: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PAIRS", 4)
    found = pieces.pieces(count, each)
    assert [row for cut in found for row in range(count)[cut]] == list(range(count))
    assert [cut.stop - cut.start for cut in found] == lengths
