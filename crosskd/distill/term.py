"""What a distillation method sees of a training step, and what it must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from crosskd.detectors.head import DenseHead
from crosskd.structures import Assignment, Held, Losses, Predictions, Targets


@dataclass(frozen=True)
class View:
    """What one of the two models made of the batch. The teacher's tensors carry no gradient."""

    head: DenseHead
    features: list[Tensor]  # P3, P4, ...: [N, C, H_l, W_l]; the teacher's are left out if no term reads them
    held: Held  # both towers' maps at the cut
    predictions: Predictions
    assignment: Assignment  # by this model's own anchors; where both have the same, one and the same object


@dataclass(frozen=True)
class Step:
    """One batch through both models, computed once and read by every term."""

    student: View
    teacher: View
    targets: Targets
    cut: int  # convolutions of the student's head before `student.held`
    teacher_cut: int  # and of the teacher's before `teacher.held`


class Term(nn.Module, ABC):
    """A distillation method: from a step to its losses.

    Registered by name, and made as `Term(knobs, student, teacher)` from its section of the configuration and the two
    detectors, which `crosskd.spec.pairing` has found to fit. A term keeps neither of them. What it learns itself
    (adapters between widths) is trained and checkpointed with the student, and left behind at the end.
    """

    reads_features: ClassVar[bool] = True  # looks at `View.features`: if no term does, the teacher's go early

    @abstractmethod
    def forward(self, step: Step) -> Losses:
        """term name -> [L], one value per level; the names are the method's own."""

    def adapters(self) -> dict[str, str]:
        """What the term learns itself, by name, in words; for the manifest."""
        return {
            name: str(module)
            for name, module in self.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        }
