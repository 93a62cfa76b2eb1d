from __future__ import annotations

import pytest
import torch

from crosskd.data.transforms import Sample, collate
from crosskd.errors import ExportError
from crosskd.onnx.check import Check, compare
from crosskd.spec.config import PostprocessConfig
from crosskd.structures import Candidates, Detections
from tests.support import small
from tests.support.shifted import Shifted

CONFIG = PostprocessConfig(score_threshold=0.3, nms_iou=0.6, max_detections=4)


def found(*rows: tuple[float, ...]) -> Detections:
    """Score, label, left side and, if not 10, width of each; boxes of ten pixels' height."""
    boxes = torch.tensor([[row[2], 0.0, row[2] + (row[3] if len(row) > 3 else 10.0), 10.0] for row in rows])
    scores, labels = torch.tensor([row[0] for row in rows]), torch.tensor([int(row[1]) for row in rows])
    return Detections(boxes.reshape(-1, 4), scores, labels.long())


def differing(check: Check, theirs: Detections, ours: Detections, candidates: Candidates | None = None) -> list[str]:
    if candidates is None:
        candidates = Candidates(theirs.boxes, theirs.scores, theirs.labels, torch.zeros_like(theirs.labels).bool())
    return check.add(theirs, ours, candidates, CONFIG)


FIRST = ((0.9, 1, 5.0), (0.5, 0, 40.0))


def test_equal_detections_in_another_order_agree() -> None:
    check = Check()
    assert differing(check, found(*FIRST), found(*FIRST[::-1])) == []
    assert (check.detections, check.at_the_limit, check.box_difference) == (2, 0, 0)


def test_the_largest_differences_are_kept() -> None:
    check = Check()
    assert differing(check, found(*FIRST), found((0.90005, 1, 5.0), (0.5, 0, 40.0625))) == []
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
    texts = differing(Check(), found(*FIRST), found(row, FIRST[1]))
    assert [text.split(" alone")[0] for text in texts] == ["PyTorch", "the graph"], who


def test_each_detection_has_one_partner() -> None:
    """Two that are nearly alike cannot both be answered by one."""
    assert len(differing(Check(), found(FIRST[0], FIRST[0]), found(FIRST[0]))) == 1


# What overlaps the first of FIRST by less, by just about, and by more than the threshold of 0.6.
LESS, ABOUT, MORE = (0.7, 1, 7.6), (0.7, 1, 7.5), (0.7, 1, 7.4)
FULL = (*FIRST, (0.45, 0, 70.0), (0.4, 0, 100.0))


@pytest.mark.parametrize(
    ("theirs", "ours", "undecided", "wrong"),
    [
        pytest.param((*FIRST, LESS), FIRST, (), 1, id="wrongly suppressed"),
        pytest.param((*FIRST, MORE), FIRST, (), 1, id="wrongly kept"),
        pytest.param((*FIRST, ABOUT), FIRST, (), 0, id="overlaps by the threshold"),
        pytest.param((*FIRST, (0.7, 0, 7.5)), FIRST, (), 1, id="overlaps another class"),
        pytest.param((*FIRST, (0.95, 1, 7.5)), FIRST, (), 1, id="overlaps a worse one"),
        pytest.param((*FIRST, LESS), FIRST, (LESS,), 0, id="its class may not pass the score threshold"),
        pytest.param((*FIRST, LESS), FIRST, ((0.7, 0, 7.6),), 1, id="another class may not pass it"),
        pytest.param((*FIRST, LESS), FIRST, ((0.69, 1, 7.6),), 1, id="another score may not pass it"),
        pytest.param((*FIRST, LESS, (0.6, 1, 9.0)), FIRST, (LESS,), 1, id="something else beside it"),
        pytest.param((*FIRST, LESS), (*FIRST, (0.6, 1, 9.0)), (LESS,), 0, id="it suppresses another"),
        pytest.param((*FIRST, LESS), (*FIRST, (0.6, 1, 12.0)), (LESS,), 1, id="it does not suppress another"),
        pytest.param(((0.5, 1, 0.0),), ((0.50005, 1, 1.0),), (), 0, id="either is the better one"),
        pytest.param(((0.5, 1, 0.0),), ((0.5002, 1, 1.0),), (), 2, id="one is the better one"),
        pytest.param((*FULL[:3], (0.40005, 0, 130.0)), FULL, (), 0, id="either is the last one"),
        pytest.param((*FULL[:3], (0.4002, 0, 130.0)), FULL, (), 2, id="one is the last one"),
        pytest.param((LESS, *FULL[:3]), FULL, (LESS,), 0, id="it takes the place of the last one"),
        pytest.param((LESS, *FULL[:3]), FULL, (), 2, id="it wrongly takes the place of the last one"),
        pytest.param((LESS, *FULL[:2]), FULL, (LESS,), 2, id="it takes the place of one only"),
    ],
)
def test_rounding_excuses_what_lies_at_a_limit_and_what_follows(
    theirs: tuple[tuple[float, ...], ...],
    ours: tuple[tuple[float, ...], ...],
    undecided: tuple[tuple[float, ...], ...],
    wrong: int,
) -> None:
    """Either way round; but a detection that is no candidate of PyTorch's is never excused."""
    alone = len(set(theirs) ^ set(ours))
    rows = list({*theirs, *ours, *undecided})
    known = found(*rows)
    candidates = Candidates(known.boxes, known.scores, known.labels, torch.tensor([row in undecided for row in rows]))
    for pair in ((theirs, ours), (ours, theirs)):
        check = Check()
        assert len(differing(check, found(*pair[0]), found(*pair[1]), candidates)) == wrong
        assert check.at_the_limit == alone - wrong
    foreign = set(ours) - set(theirs)
    assert len(differing(Check(), found(*theirs), found(*theirs, *foreign))) == len(foreign)


@pytest.mark.parametrize("name", ["gfl", "retinanet", "atss", "fcos"])
@pytest.mark.parametrize(("moved", "right"), [(4e-5, True), (4e-3, False)])
def test_the_score_threshold_is_about_classes_alone(name: str, moved: float, right: bool) -> None:
    """Where there is centerness, the scores of what just passes the threshold lie anywhere below it."""
    pixels = torch.randint(0, 255, (64, 96, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    none = torch.zeros(0, 4).numpy()
    sample = Sample(pixels, none, torch.zeros(0, dtype=torch.long).numpy(), 1, (1.0, 1.0), (64, 96))
    knobs = {"pre_nms": 10_000, "max_detections": 10_000, "nms_iou": 1.0}
    detector = small.detector(1, detector=name, depth=1, strides=[8, 16, 32], postprocess=knobs).eval()
    batch = collate([sample], detector.config.pixels, 32)
    with torch.no_grad():
        predictions = detector.head(detector.features(batch.images))
    # In the middle of the scores and, so that one is sure to lie between the two, just below one of them.
    score = float(detector.head.logits(predictions).sigmoid().flatten().sort().values[-50]) - moved / 2
    postprocess = detector.config.postprocess.model_copy(update={"score_threshold": score})
    detector.config = detector.config.model_copy(update={"postprocess": postprocess})
    graph = Shifted(detector, score_threshold=score + moved)
    if right:
        check = compare(graph, detector, [sample], 32)
        assert check.at_the_limit > 0
    else:
        with pytest.raises(ExportError, match="finds other boxes"):
            compare(graph, detector, [sample], 32)
