"""The student, its frozen teacher and the terms between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from crosskd.backbones.staged import STRIDE
from crosskd.detectors.dense.head import DenseHead, map_sizes
from crosskd.detectors.detector import Detector
from crosskd.detectors.view import Kept, Met, Pass
from crosskd.distill.cache.teacher_cache import TeacherCache
from crosskd.distill.renormalise import Renormalise
from crosskd.distill.seen import Recalled, Seen
from crosskd.distill.term import Step, Term
from crosskd.distill.unlabelled import joined, looks_for_objects, on_unlabelled, parts, sure_of, without_truth
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.alike import same_assignment
from crosskd.spec.config import DistillConfig
from crosskd.spec.distill.needs import Need
from crosskd.spec.distill.pairing import require_pair
from crosskd.structures import Losses, Size, Targets


@dataclass
class Counts:
    """What the distiller has seen of images without ground truth."""

    batches: int = 0
    images: int = 0
    asked: int = 0  # of these, images in which the teacher's detections were looked for
    confident: int = 0

    def figures(self) -> dict[str, float]:
        """As `Distiller.figures`."""
        found = {"unlabelled_images": self.images / self.batches} if self.batches else {}
        return found | ({"unlabelled_confident": self.confident / self.asked} if self.asked else {})


class Distiller(nn.Module):
    """Trains `student` on the detection loss and on what the terms draw from `teacher`.

    The teacher is not a submodule: it is in no state dict and among no parameters, so what is trained is the student
    and what the terms learn themselves. It follows `.to()`, stays in evaluation mode and runs under `no_grad`; its
    head still passes gradients on to the student's features where a term sends them through it.
    """

    teacher: Detector

    def __init__(
        self, student: Detector, teacher: Detector, terms: dict[str, Term], *, confidence: float = 0.3
    ) -> None:
        """`confidence` is the score from which on a detection of the teacher counts in an image without labels."""
        super().__init__()
        self.student = student
        object.__setattr__(self, "teacher", teacher.requires_grad_(False).eval())
        self.terms = nn.ModuleDict(terms)
        self.renormalise = Renormalise(student.config.pixels, teacher.config.pixels)
        self.shared = same_assignment(student.config, teacher.config)
        self.confidence = confidence
        self.counts = Counts()
        self.cache: TeacherCache | None = None  # set by who has one

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        """images [N, 3, H, W], normalised for the student -> its detection losses and the terms' losses, each [L].

        Both backbones and pyramids see the batch once. Behind them images without ground truth, if there are any, go
        their own way: the detection losses are those of a batch of the others alone, and a term's loss is the mean of
        both ways by their images.
        """
        images = self._large_enough(images)
        with torch.no_grad():
            seen = self._seen(images, targets)
        ours = self.student.features(images)
        if any(need.same_maps for need in self.needs()):
            self._require_same_maps(map_sizes(ours), seen.map_sizes, images)
        ways = []
        for cut in parts(targets):
            given = targets.part(cut) if targets.unlabelled else targets
            terms = on_unlabelled(self._terms()) if given.unlabelled else self._terms()
            ways.append((cut, terms, *self._taught(seen.part(cut) if targets.unlabelled else seen, given, terms)))
        del seen  # the largest maps: they go now where no term needs them
        losses: Losses = {}
        for cut, terms, given, met, assigned in ways:
            features = self.student.part(ours, cut) if targets.unlabelled else ours
            if not given.unlabelled:
                losses = self._learnt(features, terms, given, met, assigned)
            elif terms:
                found = self._learnt(features, terms, given, met, assigned)
                losses = joined(losses, without_truth(terms, found), given.unlabelled / len(images))
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

    def _seen(self, images: Tensor, targets: Targets) -> Seen | Recalled:
        """What the teacher makes of the images, or has made of them before."""
        if self.cache is None or targets.shown is None:
            return Seen(self.teacher, self.teacher.features(self.renormalise(images, targets.table.sizes)))
        return Recalled(self.teacher, self.cache(images, targets, self._kept), (images.shape[-2], images.shape[-1]))

    def _kept(self, images: Tensor, targets: Targets) -> Kept:
        """What is kept of images that the cache does not know."""
        features = self.teacher.features(self.renormalise(images, targets.table.sizes))
        return self.teacher.kept(self.teacher.view("teacher", features, targets, self.needs()))

    def _taught(
        self, seen: Seen | Recalled, targets: Targets, terms: dict[str, Term]
    ) -> tuple[Targets, Met, Any | None]:
        """What stands for the ground truth, what the terms need of the teacher, what it assigned where that serves."""
        needs = _needs(terms)
        with torch.no_grad():
            made = seen.view(targets, needs)
            if targets.unlabelled:
                made.targets = self._sure(made, targets, needs)
            met = made.meet()
        return made.targets, met, made.assigned if self.shared else None

    def _sure(self, made: Pass, targets: Targets, needs: list[Need]) -> Targets:
        self.counts.images += targets.unlabelled
        self.counts.batches += 1
        if not looks_for_objects(needs):
            return targets
        sure = sure_of(self.teacher, made, targets, self.confidence)
        self.counts.asked += targets.unlabelled
        self.counts.confident += sum(len(boxes) for boxes in sure.boxes)
        return sure

    def _learnt(
        self, features: list[Tensor], terms: dict[str, Term], targets: Targets, met: Met, assigned: Any | None
    ) -> Losses:
        """The detection loss, where there is ground truth, and the terms'."""
        student = self.student.view("student", features, targets, _needs(terms), assigned)
        ours = student.meet()
        losses: Losses = {} if targets.unlabelled else student.losses()
        del student  # what no term needs of it goes before the terms begin
        for term in terms.values():
            losses |= term(Step(ours.view(term.needs), met.view(term.needs), targets))
        return losses

    def figures(self) -> dict[str, float]:
        """Of the batches since the last call, where they had images without ground truth; for the metrics.

        `unlabelled_images`: such images in a batch; `unlabelled_confident`: the teacher's confident detections in one
        of these, left out where no term asks for any. And what the cache says, where there is one. Of this rank.
        """
        told, self.counts = self.counts.figures(), Counts()
        return told if self.cache is None else told | self.cache.figures()

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

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """As `Detector.recomputed`: of the student, and of the teacher's head where gradients pass through it."""
        head = self.teacher.head
        crossed = head.recomputed() if isinstance(head, DenseHead) else []
        return [*self.student.recomputed(), *crossed]

    def needs(self) -> list[Need]:
        """All that the terms read of a step."""
        return _needs(self._terms())

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


def _needs(terms: dict[str, Term]) -> list[Need]:
    return list(dict.fromkeys(need for term in terms.values() for need in term.needs))


def build_distiller(
    student: Detector, teacher: Detector, config: DistillConfig, *, confidence: float = 0.3
) -> Distiller:
    """Join the pair by the terms of `config`. Raises `ConfigError` where they do not fit together.

    `confidence` goes to `Distiller`.
    """
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
    return Distiller(student, teacher, terms, confidence=confidence)
