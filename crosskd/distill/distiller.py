"""The student, its frozen teacher and the terms between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from crosskd.backbones.staged import STRIDE
from crosskd.detectors.dense.head import map_sizes
from crosskd.detectors.detector import Detector
from crosskd.distill.renormalise import Renormalise
from crosskd.distill.term import Step, Term
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.alike import same_assignment
from crosskd.spec.config import DistillConfig
from crosskd.spec.pairing import require_pair
from crosskd.structures import Losses, Size, Targets


class Distiller(nn.Module):
    """Trains `student` on the detection loss and on what the terms draw from `teacher`.

    The teacher is not a submodule: it is in no state dict and among no parameters, so what is trained is the student
    and what the terms learn themselves. It follows `.to()`, stays in evaluation mode and runs under `no_grad`; its
    head still passes gradients on to the student's features where a term sends them through it.
    """

    teacher: Detector

    def __init__(self, student: Detector, teacher: Detector, terms: dict[str, Term]) -> None:
        super().__init__()
        self.student = student
        object.__setattr__(self, "teacher", teacher.requires_grad_(False).eval())
        self.terms = nn.ModuleDict(terms)
        self.renormalise = Renormalise(student.config.pixels, teacher.config.pixels)
        self.shared = same_assignment(student.config, teacher.config)

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        """images [N, 3, H, W], normalised for the student -> its detection losses and the terms' losses, each [L]."""
        images = self._large_enough(images)
        with torch.no_grad():
            teacher_features = self.teacher.features(self.renormalise(images, targets.table.sizes))
        features = self.student.features(images)
        terms = self._terms()
        needs = list(dict.fromkeys(need for term in terms.values() for need in term.needs))
        if any(need.same_maps for need in needs):
            self._require_same_maps(map_sizes(features), map_sizes(teacher_features), images)
        with torch.no_grad():
            teacher = self.teacher.view("teacher", teacher_features, targets, needs)
            theirs = teacher.meet()
        assigned = teacher.assigned if self.shared else None
        del teacher_features, teacher  # the largest maps: they go now where no term needs them
        student = self.student.view("student", features, targets, needs, assigned)
        ours = student.meet()
        losses = student.losses()
        for term in terms.values():
            losses |= term(Step(ours.view(term.needs), theirs.view(term.needs), targets))
        return losses

    def _large_enough(self, images: Tensor) -> Tensor:
        """Padded where the two would pad them to other sizes, so that both see images of one size."""
        high, wide = images.shape[-2:]
        if self.student.padded(high, wide) == self.teacher.padded(high, wide):
            return images  # each pads them itself
        step = math.lcm(self.student.step, self.teacher.step)
        least = max(self.student.least_side, self.teacher.least_side)
        height, width = (-(-max(side, least) // step) * step for side in (high, wide))
        outside = images.new_tensor(self.student.config.pixels.outside).view(1, -1, 1, 1)
        padded = outside.expand(len(images), -1, height, width).clone()
        padded[..., : images.shape[-2], : images.shape[-1]] = images
        return padded

    def _require_same_maps(self, ours: list[Size], theirs: list[Size], images: Tensor) -> None:
        """Backbones of the same strides can round differently what does not divide by them. Raises `ConfigError`."""
        if ours != theirs:
            height, width = images.shape[-2:]
            raise ConfigError(
                f"of images of {height} x {width} pixels the student makes maps of {ours} cells, the teacher of "
                f"{theirs}",
                where="/augment/pad_to",
                remedy=f"Pad to a multiple of {STRIDE}: then both come out alike.",
            )

    def sometimes_idle(self) -> list[str]:
        """Names of parameters that a step may leave without a gradient: the student's, and what terms learn."""
        names = [f"student.{name}" for name in self.student.sometimes_idle()]
        for name, term in self._terms().items():
            if term.sometimes_idle():
                names += [f"terms.{name}.{part}" for part, _ in term.named_parameters()]
        return names

    def adapters(self) -> dict[str, str]:
        """What the terms learn themselves and leave behind, by name."""
        found: dict[str, str] = {}
        for name, term in self._terms().items():
            found |= {f"{name}.{part}": words for part, words in term.adapters().items()}
        return found

    def _terms(self) -> dict[str, Term]:
        terms: dict[str, Any] = dict(self.terms.items())  # to torch they are modules
        return terms

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # What .to(), .double() and .cuda() call; torch gives it no types.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def build_distiller(student: Detector, teacher: Detector, config: DistillConfig) -> Distiller:
    """Join the pair by the terms of `config`. Raises `ConfigError` where they do not fit together."""
    if student.num_classes != teacher.num_classes:
        raise ConfigError(
            f"the teacher knows {teacher.num_classes} classes, the student {student.num_classes}",
            where="/data/classes",
            remedy="Narrow the teacher to the student's classes first: `teacher.load_teacher` does.",
        )
    config = require_pair(config, student.config, teacher.config)
    terms: dict[str, Term] = {
        name: registry.load(registry.TERMS[name].target_for(teacher.config.detector))(knobs, student, teacher)
        for name, knobs in config.terms().items()
    }
    return Distiller(student, teacher, terms)
