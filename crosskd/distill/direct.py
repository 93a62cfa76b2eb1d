"""Prediction mimicking: the student's own predictions against the teacher's (the baseline of arXiv 2306.11369)."""

from __future__ import annotations

from crosskd.distill.mimic import mimic
from crosskd.distill.term import Step, Term
from crosskd.spec.config import DirectConfig
from crosskd.structures import Losses


class Direct(Term):
    """CrossKD's losses without its detour: the student's head learns the teacher's predictions itself.

    So its prediction layers are taught by the ground truth and by the teacher at once, also where these disagree:
    the conflict that CrossKD takes away.
    """

    config: DirectConfig

    def forward(self, step: Step) -> Losses:
        student = step.student
        return mimic(
            "direct", student.head, student.predictions, step.teacher.predictions, student.assignment, self.config
        )
