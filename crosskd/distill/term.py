"""What a distillation method sees of a training step, and what it must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from crosskd.detectors.detector import Detector
from crosskd.detectors.view import View
from crosskd.spec.distill.needs import Need
from crosskd.spec.distill.term import TermConfig
from crosskd.structures import Losses, Targets

__all__ = ["MapTerm", "Step", "Term", "View"]


@dataclass(frozen=True)
class Step:
    """One batch through both models: what a term needs of it, computed once for all terms."""

    student: View
    teacher: View
    targets: Targets


class Term(nn.Module, ABC):
    """A distillation method: from a step to its losses.

    Registered by name, and made from its section of the configuration and the two detectors, which
    `crosskd.spec.distill.pairing` has found to fit. A term keeps neither of them. What it needs of a step its section
    says. What it learns itself (adapters between widths) is trained and checkpointed with the student, and left behind
    at the end.
    """

    needs: tuple[Need, ...]

    def __init__(self, config: TermConfig, student: Detector, teacher: Detector) -> None:
        super().__init__()
        self.config = config  # with every knob filled in
        self.needs = config.needs(student.config, teacher.config)

    @abstractmethod
    def forward(self, step: Step) -> Losses:
        """term name -> [L], one value per level; the names are the method's own."""

    def sometimes_idle(self) -> bool:
        """Whether a step may leave what the term learns without a gradient, which one of zeros is not."""
        return True

    def adapters(self) -> dict[str, str]:
        """What the term learns itself, by name, in words; for the manifest."""
        return {
            name: str(module)
            for name, module in self.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        }


class MapTerm(Term):
    """A method that compares whole maps: a mask leaves nothing of them with zeros, and what is learnt always learns."""

    def sometimes_idle(self) -> bool:
        return False
