"""CrossKD: cross-head knowledge distillation (arXiv 2306.11369)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.detector import Detector
from crosskd.distill.mimic import mimic
from crosskd.distill.statistics import match_statistics
from crosskd.distill.term import Step, Term
from crosskd.spec.config import CrossKDConfig
from crosskd.structures import Held, HeldMoments, Losses, Moments, Predictions


def cross(teacher: DenseHead, student_held: Held, teacher_held: Held | HeldMoments, cut: int) -> Predictions:
    """What the teacher's head would predict from the student's features, cut behind its convolution `cut`.

    The student's maps take on the teacher's per-channel statistics and go through the ReLU (at cut 0 there is none)
    and the rest of the teacher's frozen head. The gradient reaches the student's layers up to the cut and none
    behind it. SiLU, which has negative values itself and changes what has been through it, is not applied again.
    """

    def adapt(ours: list[Tensor], theirs: Sequence[Tensor | Moments]) -> list[Tensor]:
        return [match_statistics(s, like=t) for s, t in zip(ours, theirs, strict=True)]

    # Not yet activated, even when the cut is behind the ReLU: the new statistics bring negative values back.
    activated = teacher_held.activated and teacher.activation != "relu"
    held = Held(
        adapt(student_held.cls, teacher_held.cls), adapt(student_held.box, teacher_held.box), activated=activated
    )
    return teacher.back(held, cut)


class CrossKD(Term):
    """The distance between the cross-head's predictions and the teacher's own: classes, boxes, centerness.

    All of it happens in the teacher's head, with its anchors and its box code, whatever the student's are. Where the
    maps at the cut have other widths, a 1 x 1 convolution per tower, shared by the levels, leads from one to the
    other.
    """

    config: CrossKDConfig

    def __init__(self, config: CrossKDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        assert config.cut is not None
        assert config.teacher_cut is not None
        self.teacher_cut = config.teacher_cut
        ours = student.config.held_channels(config.cut)
        theirs = teacher.config.held_channels(config.teacher_cut)
        self.adapt_cls = _adapter(ours, theirs) if ours != theirs else None
        self.adapt_box = _adapter(ours, theirs) if ours != theirs else None

    def sometimes_idle(self) -> bool:
        return not (self.config.cls_weight and self.config.box_weight)  # a tower that no loss comes from

    def forward(self, step: Step) -> Losses:
        teacher, held = step.teacher, step.student.held
        assert isinstance(held, Held)
        predictions = cross(teacher.head, self._adapted(held), teacher.held, self.teacher_cut)
        return mimic("crosskd", teacher.head, predictions, teacher.predictions, teacher.assignment, self.config)

    def _adapted(self, held: Held) -> Held:
        if self.adapt_cls is None or self.adapt_box is None:
            return held
        return Held([self.adapt_cls(x) for x in held.cls], [self.adapt_box(x) for x in held.box], held.activated)


def _adapter(in_channels: int, out_channels: int) -> nn.Conv2d:
    # Without a bias: the statistics behind it take the mean away.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="linear")
    return conv
