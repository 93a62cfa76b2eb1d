"""Which detections may be found by one side of a comparison alone, because rounding decides about them.

PyTorch and onnxruntime add up in other orders. So a number that lies at a limit may lie on either side of it, and what
depends on that differs from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torchvision.ops import box_iou

from crosskd.spec.config import PostprocessConfig
from crosskd.structures import Candidates, Detections

BOX_TOLERANCE = 0.1  # pixels
SCORE_TOLERANCE = 1e-4
IOU_TOLERANCE = 1e-3
LOGIT_TOLERANCE = 4 * SCORE_TOLERANCE  # moves a score of a half by about the tolerance of scores


@dataclass
class Side:
    """What one of the two has found in an image, by rows."""

    found: Detections
    alone: set[int]  # what the other has not found
    open: set[int] = field(default_factory=set)  # of these, what both know as a candidate
    excused: set[int] = field(default_factory=set)  # of these, what rounding may have decided


def excuse(sides: tuple[Side, Side], candidates: Candidates, config: PostprocessConfig) -> None:
    """Put into `excused` of both sides what rounding may have decided.

    `candidates` are PyTorch's; what is none of them (another box, another score) is never excused. Those that are
    `close` may or may not reach suppression: what a threshold looks at, which is not always the score of a detection,
    lies within the tolerance of it. Suppression and the largest number of detections are judged here; from one
    detection the difference goes on to those that it suppresses, or whose place it takes.
    """
    for side in sides:
        for row in side.alone:
            known = same(side.found, row, candidates)
            side.open |= {row} if known.any() else set()
            side.excused |= {row} if (known & candidates.close).any() else set()
    while True:
        before = sum(len(side.excused) for side in sides)
        for side, other in (sides, sides[::-1]):
            side.excused |= {row for row in side.open - side.excused if _suppressed(side, row, other, config)}
            _crowd_out(side, other, config)
        if sum(len(side.excused) for side in sides) == before:
            return


def same(found: Detections, row: int, others: Detections | Candidates) -> Tensor:
    """[D'] bool: which of `others` agree with detection `row` of `found` within the tolerances."""
    near = (others.boxes - found.boxes[row]).abs() <= BOX_TOLERANCE
    close = (others.scores - found.scores[row]).abs() <= SCORE_TOLERANCE
    return (others.labels == found.labels[row]) & close & near.all(dim=1)


def _suppressed(side: Side, row: int, other: Side, config: PostprocessConfig) -> bool:
    """Whether the other may have suppressed it by one of its own that this side, by rounding, has let it stand beside.

    That is one of its class and better, or as good, of which one is true: it overlaps the detection by just about the
    threshold; it overlaps it by more and is itself found by the other alone, excused; or which of the two is the better
    one is open, and this side has chosen otherwise.
    """
    mine, theirs = side.found, other.found
    ahead = theirs.scores - mine.scores[row]
    rivals = ((theirs.labels == mine.labels[row]) & (ahead >= -SCORE_TOLERANCE)).nonzero()[:, 0]
    if len(rivals) == 0:
        return False
    overlap = box_iou(mine.boxes[row : row + 1], theirs.boxes[rivals])[0] - config.nms_iou
    if (overlap.abs() <= IOU_TOLERANCE).any():
        return True
    return any(
        rival in other.excused or (rival in other.open and abs(float(ahead[rival])) <= SCORE_TOLERANCE)
        for rival in rivals[overlap > 0].tolist()
    )


def _crowd_out(side: Side, other: Side, config: PostprocessConfig) -> None:
    """Excuse what the other may have found too, behind its last: as many as it has excused ones that took the places.

    And all whose score is that of its last one: rounding decides which of them is the last.
    """
    if len(other.found.scores) < config.max_detections:
        return
    behind = side.found.scores - other.found.scores[-1]
    side.excused |= {row for row in side.open if abs(float(behind[row])) <= SCORE_TOLERANCE}
    beyond = sorted(row for row in side.open if float(behind[row]) < -SCORE_TOLERANCE)
    side.excused |= set(beyond[: len(other.excused)])
