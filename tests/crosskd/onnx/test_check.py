from __future__ import annotations

import pytest
import torch

from crosskd.onnx.check import Check
from crosskd.structures import Detections

THRESHOLD = 0.3


def found(*rows: tuple[float, int, float]) -> Detections:
    """Score, label and left side of each; boxes of ten pixels."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for _, _, x in rows]).reshape(-1, 4)
    return Detections(boxes, torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows]))


FIRST = ((0.9, 1, 5.0), (0.5, 0, 40.0))


def test_equal_detections_in_another_order_agree() -> None:
    check = Check()
    assert check.add(found(*FIRST), found(*FIRST[::-1]), THRESHOLD) == []
    assert (check.detections, check.at_the_limit, check.box_difference) == (2, 0, 0)


def test_the_largest_differences_are_kept() -> None:
    check = Check()
    assert check.add(found(*FIRST), found((0.90005, 1, 5.0), (0.5, 0, 40.0625)), THRESHOLD) == []
    assert check.box_difference == 0.0625
    assert check.score_difference == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize(
    ("row", "who"),
    [
        ((0.9002, 1, 5.0), "score"),
        ((0.9, 0, 5.0), "class"),
        ((0.9, 1, 5.2), "box"),
    ],
)
def test_what_differs_by_more_is_told_from_both_sides(row: tuple[float, int, float], who: str) -> None:
    differing = Check().add(found(*FIRST), found(row, FIRST[1]), THRESHOLD)
    assert [text.split(" alone")[0] for text in differing] == ["PyTorch", "the graph"], who


def test_each_detection_has_one_partner() -> None:
    """Two that are nearly alike cannot both be answered by one."""
    assert len(Check().add(found(FIRST[0], FIRST[0]), found(FIRST[0]), THRESHOLD)) == 1


def test_rounding_decides_at_the_limit() -> None:
    check = Check()
    assert check.add(found(*FIRST, (THRESHOLD + 5e-5, 0, 70.0)), found(*FIRST), THRESHOLD) == []
    assert (check.detections, check.at_the_limit) == (2, 1)
    assert len(check.add(found(*FIRST, (THRESHOLD + 5e-4, 0, 70.0)), found(*FIRST), THRESHOLD)) == 1
