"""Of which regions rounding decides: what suppression surely leaves, may leave, and surely does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from crosskd.boxes import pieces
from crosskd.boxes.suppression import suppress
from crosskd.data.transforms import Sample
from crosskd.errors import ExportError
from crosskd.onnx import region_rounding
from crosskd.onnx.check import compare
from crosskd.onnx.region_rounding import LOGIT_TOLERANCE, look, survivors
from tests.support import small
from tests.support.shifted import Shifted

WIDTH = 100.0
# Overlaps the box before it by less, by about, and by more than the threshold.
THRESHOLD, LESS, ABOUT, MORE = 0.6, 26.0, 25.0, 24.0


def row(*lefts: float) -> torch.Tensor:
    return torch.tensor([[left, 0.0, left + WIDTH, 10.0] for left in lefts])


@pytest.mark.parametrize(
    ("lefts", "logits", "unsure", "left", "open_"),
    [
        pytest.param((0, LESS), (2, 1), (0, 0), (1, 1), (0, 0), id="apart"),
        pytest.param((0, MORE), (2, 1), (0, 0), (1, 0), (0, 0), id="surely suppressed"),
        pytest.param((0, ABOUT), (2, 1), (0, 0), (1, 1), (0, 1), id="at the threshold"),
        pytest.param((0, MORE), (2, 2), (0, 0), (1, 1), (1, 1), id="either is the better one"),
        pytest.param((0, LESS), (2, 2), (0, 0), (1, 1), (0, 0), id="as good, and apart"),
        pytest.param((0, MORE), (2, 1), (1, 0), (1, 1), (1, 1), id="by one that may not be there"),
        pytest.param((0, ABOUT, ABOUT + MORE), (3, 2, 1), (0, 0, 0), (1, 1, 1), (0, 1, 1), id="by one that is open"),
        pytest.param((0, MORE, 2 * MORE), (3, 2, 1), (0, 0, 0), (1, 0, 1), (0, 0, 0), id="by one that is gone"),
    ],
)
def test_what_suppression_may_leave(
    lefts: tuple[float, ...],
    logits: tuple[float, ...],
    unsure: tuple[int, ...],
    left: tuple[int, ...],
    open_: tuple[int, ...],
) -> None:
    found = survivors(row(*lefts), torch.tensor(logits, dtype=torch.float), torch.tensor(unsure).bool(), THRESHOLD)
    assert (found[0].int().tolist(), (found[0] & found[1]).int().tolist()) == (list(left), list(open_))


def test_no_table_of_all_pairs_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pre_nms` may be 100 000, and a table of so many squared has 40 GB."""
    torch.manual_seed(0)
    boxes, logits = row(*(400 * torch.rand(100)).tolist()), torch.rand(100).sort(descending=True).values
    unsure, tables = torch.zeros(100, dtype=torch.bool), []

    def measured(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        found = box_iou(ours, theirs)
        tables.append(found.numel())
        return found

    whole = survivors(boxes, logits, unsure, THRESHOLD)
    monkeypatch.setattr(pieces, "PAIRS", 700)
    monkeypatch.setattr(region_rounding, "box_iou", measured)
    found = survivors(boxes, logits, unsure, THRESHOLD)
    assert (sum(tables), max(tables) <= 700) == (100 * 100, True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, whole, strict=True))
    assert 0 < whole[0].sum() < 100


def test_suppression_of_moved_scores_and_boxes_stays_within_it() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = 60 * torch.rand(80, 2, generator=generator)
    boxes = torch.cat((corner, corner + 20 + 30 * torch.rand(80, 2, generator=generator)), dim=1)
    logits = torch.randn(80, generator=generator).mul(50).round().div(50).sort(descending=True).values  # many are tied
    left, open_ = survivors(boxes, logits, torch.zeros(80, dtype=torch.bool), 0.5)
    assert 0 < int((left & ~open_).sum()) < int(left.sum()) < 80
    for _ in range(20):
        moved = logits + LOGIT_TOLERANCE / 2 * (2 * torch.rand(80, generator=generator) - 1)
        kept = torch.zeros(80, dtype=torch.bool)
        kept[suppress(boxes, moved, torch.zeros(80, dtype=torch.long), 0.5)] = True
        assert not (kept & ~left).any()
        assert not (left & ~open_ & ~kept).any()


def test_what_is_detected_is_among_the_candidates_and_another_detector_is_found_out() -> None:
    detector = small.two_stage(1, postprocess={"score_threshold": 0.2, "pre_nms": 40}).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    sample = Sample(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 1, (1.0, 1.0), (64, 96))
    images, _ = small.batch()
    for found, known in zip(*look(detector, images, [(64, 96), (50, 60)]), strict=True):
        assert len(found.scores) > 5
        assert not known.close.all()
        for place in range(len(found.scores)):
            near = (known.boxes - found.boxes[place]).abs().amax(dim=1) < 1e-3
            assert (near & (known.labels == found.labels[place])).any()
    assert compare(Shifted(detector), detector, [sample], 32).at_the_limit == 0
    with pytest.raises(ExportError, match="finds other boxes"):
        compare(Shifted(detector, score_threshold=0.25), detector, [sample], 32)
