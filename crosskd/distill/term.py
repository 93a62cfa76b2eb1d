"""What a distillation method sees of a training step, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.detectors.head import DenseHead
from crosskd.structures import Assignment, Held, Losses, Predictions, Targets


@dataclass(frozen=True)
class View:
    """What one of the two models made of the batch. The teacher's tensors carry no gradient."""

    head: DenseHead
    features: list[Tensor]  # P3, P4, ...: [N, C, H_l, W_l]
    held: Held  # both towers' maps at the cut
    predictions: Predictions


@dataclass(frozen=True)
class Step:
    """One batch through both models, computed once and read by every term."""

    student: View
    teacher: View
    assignment: Assignment
    targets: Targets
    cut: int


class Term(Protocol):
    """A distillation method: from a step to its losses. Made from its section of the configuration."""

    def check(self, student: Detector, teacher: Detector) -> None:
        """Raise a `ConfigError` where this method cannot work on this pair."""

    def __call__(self, step: Step) -> Losses:
        """term name -> [L], one value per level; the names are the method's own."""
