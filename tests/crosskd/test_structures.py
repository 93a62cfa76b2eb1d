"""The ground truth of a batch as one table."""

from __future__ import annotations

import pytest
import torch

from crosskd.structures import Targets

SIZES, PADDED = [(60, 90), (50, 64), (64, 32)], [(64, 96), (64, 64), (64, 32)]


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0, 0]])
def test_a_table_has_every_box_in_its_place_and_says_where_there_is_none(counts: list[int]) -> None:
    boxes = [torch.rand(count, 4) + image for image, count in enumerate(counts)]
    labels = [torch.arange(count) + image for image, count in enumerate(counts)]
    table = Targets(boxes, labels, SIZES, PADDED).table
    assert table.boxes.shape == (3, max(1, *counts), 4)
    assert torch.equal(table.boxes[table.there], torch.cat(boxes))
    assert torch.equal(table.labels[table.there], torch.cat(labels))
    assert torch.equal(table.boxes.flatten(0, 1)[table.place], torch.cat(boxes))
    assert not table.boxes[~table.there].any()
    assert (table.sizes.tolist(), table.padded.tolist()) == ([[*s] for s in SIZES], [[*s] for s in PADDED])


def test_targets_that_move_take_their_table_along() -> None:
    given = Targets([torch.rand(2, 4), torch.rand(1, 4)], [torch.tensor([0, 1]), torch.tensor([2])], *[SIZES[:2]] * 2)
    assert given.to("cpu") is given
    moved = given.to("cpu", torch.float64)
    assert [boxes.dtype for boxes in moved.boxes] == [torch.float64] * 2
    assert all(torch.equal(a.float(), b) for a, b in zip(moved.boxes, given.boxes, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moved.labels, given.labels, strict=True))
    assert moved.boxes[0].data_ptr() == moved.table.boxes.data_ptr()
