"""The student, its frozen teacher and the terms between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from crosskd import registry
from crosskd.config import DistillConfig
from crosskd.detectors.detector import Detector
from crosskd.detectors.head import map_sizes
from crosskd.distill.crosskd import choose_cut
from crosskd.distill.term import Step, Term, View
from crosskd.errors import ConfigError
from crosskd.structures import Losses, Targets


class Distiller(nn.Module):
    """Trains `student` on the detection loss and on what the terms draw from `teacher`.

    The teacher is not a submodule: it is in no state dict and among no parameters, so what is trained, saved and
    averaged is the student alone. It follows `.to()`, stays in evaluation mode and runs under `no_grad`; its head
    still passes gradients on to the student's features where a term sends them through it.
    """

    teacher: Detector

    def __init__(self, student: Detector, teacher: Detector, terms: list[Term], *, cut: int, after_relu: bool) -> None:
        super().__init__()
        self.student = student
        object.__setattr__(self, "teacher", teacher.requires_grad_(False).eval())
        self.terms = terms
        self.cut = cut
        self.after_relu = after_relu

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        """images [N, 3, H, W] -> the student's detection losses and the distillation losses, each [L]."""
        with torch.no_grad():
            teacher = self._view(self.teacher, images)
        student = self._view(self.student, images)
        assignment = self.student.head.assign(map_sizes(student.features), targets)
        losses = self.student.head.loss(student.predictions, assignment)
        step = Step(student, teacher, assignment, targets, self.cut)
        for term in self.terms:
            losses |= term(step)
        return losses

    def _view(self, model: Detector, images: Tensor) -> View:
        features = model.features(images)
        held = model.head.front(features, self.cut, after_relu=self.after_relu)
        return View(model.head, features, held, model.head.back(held, self.cut))

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
    _check_pair(student, teacher)
    terms: list[Term] = []
    for name, knobs in config.terms().items():
        term: Term = registry.load(registry.TERMS[name].target)(knobs)
        term.check(student, teacher)
        terms.append(term)
    crosskd = config.crosskd
    if crosskd is None:
        return Distiller(student, teacher, terms, cut=0, after_relu=True)
    cut = choose_cut(crosskd, student, teacher)
    return Distiller(student, teacher, terms, cut=cut, after_relu=crosskd.after_relu)


def _check_pair(student: Detector, teacher: Detector) -> None:
    """Every anchor of the one must be the same anchor of the other, and predict the same things."""
    facts = {
        "/student/detector": (student.config.detector, teacher.config.detector),
        "/student/strides": (student.strides, teacher.strides),
        "/data/classes": (student.num_classes, teacher.num_classes),
        "/student/head/reg_max": (student.config.head.reg_max, teacher.config.head.reg_max),
        # Both read the same tensor: an image is normalised once.
        "/student/pixels": (student.config.pixels, teacher.config.pixels),
    }
    for where, (ours, theirs) in facts.items():
        if ours != theirs:
            name = where.rpartition("/")[2]
            raise ConfigError(
                f"student and teacher differ in {name}: {ours} and {theirs}",
                where=where,
                remedy=f"Use a teacher with the student's {name}, or give the student the teacher's.",
            )
