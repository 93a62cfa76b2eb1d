"""Box codes and centerness."""

from __future__ import annotations

import math

import torch

from crosskd.boxes.coding import LARGEST_RATIO, centerness, decode_deltas, encode_deltas

ANCHOR = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40


def test_deltas_are_ways_and_ratios_over_their_deviations() -> None:
    box = torch.tensor([[20.0, 30.0, 60.0, 70.0]])  # centre (40, 50), 40 x 40
    expected = torch.tensor([[1.0 / 0.1, 0.25 / 0.1, math.log(2) / 0.2, 0.0]])
    torch.testing.assert_close(encode_deltas(ANCHOR, box, (0.1, 0.1, 0.2, 0.2)), expected)


def test_decoding_undoes_encoding() -> None:
    torch.manual_seed(0)
    corner = torch.rand(50, 2, dtype=torch.float64) * 100
    boxes = torch.cat((corner, corner + 1 + 50 * torch.rand(50, 2, dtype=torch.float64)), dim=1)
    anchors = ANCHOR.double().expand(50, 4)
    for stds in ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)):
        torch.testing.assert_close(decode_deltas(anchors, encode_deltas(anchors, boxes, stds), stds), boxes)


def test_no_side_grows_or_shrinks_without_bound() -> None:
    found = decode_deltas(ANCHOR, torch.tensor([[0.0, 0.0, 100.0, -100.0]]), (1.0, 1.0, 1.0, 1.0))[0]
    assert math.isclose(found[2] - found[0], 20 * math.exp(LARGEST_RATIO), rel_tol=1e-5)
    assert math.isclose(found[3] - found[1], 40 * math.exp(-LARGEST_RATIO), rel_tol=1e-4)


def test_centerness_falls_from_the_middle_to_the_sides() -> None:
    box = torch.tensor([0.0, 0.0, 40.0, 20.0])
    points = torch.tensor([[20.0, 10.0], [10.0, 10.0], [10.0, 5.0], [0.0, 10.0]])
    expected = torch.tensor([1.0, math.sqrt(1 / 3), 1 / 3, 0.0])
    torch.testing.assert_close(centerness(points, box.expand(4, 4)), expected)
