"""What a distillation method sees of a training step, and what it must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crosskd.detectors.dense.head import DenseHead
from crosskd.detectors.detector import Detector
from crosskd.spec.distill import TermConfig
from crosskd.spec.needs import Need
from crosskd.structures import Assignment, Held, Losses, Predictions, Targets


class View:
    """What one of the two models made of the batch, as far as the term needs it.

    A field that none of its needs asks for is not there: to read it is an `AttributeError`. The teacher's tensors
    carry no gradient.
    """

    head: DenseHead  # always there
    features: list[Tensor]  # Pyramid: P3, P4, ...: [N, C, H_l, W_l]
    held: Held  # HeadCut: both towers' maps at this model's cut
    predictions: Predictions  # AnchorPredictions
    assignment: Assignment  # AnchorPredictions: of this model's own anchors; one object where both have the same

    def __init__(self, head: DenseHead, **fields: Any) -> None:
        self.head = head
        vars(self).update(fields)


@dataclass(frozen=True)
class Step:
    """One batch through both models: what a term needs of it, computed once for all terms."""

    student: View
    teacher: View
    targets: Targets


class Term(nn.Module, ABC):
    """A distillation method: from a step to its losses.

    Registered by name, and made from its section of the configuration and the two detectors, which
    `crosskd.spec.pairing` has found to fit. A term keeps neither of them. What it needs of a step its section says.
    What it learns itself (adapters between widths) is trained and checkpointed with the student, and left behind at
    the end.
    """

    needs: tuple[Need, ...]

    def __init__(self, config: TermConfig, student: Detector, teacher: Detector) -> None:
        super().__init__()
        self.config = config  # with every knob filled in
        self.needs = config.needs(student.config, teacher.config)

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
