"""A step made by hand: random maps in float64, small enough to be gone through cell by cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.distill.term import Step, Term, View
from crosskd.spec import registry
from crosskd.spec.config import DistillConfig
from crosskd.spec.distill.needs import Need
from crosskd.spec.distill.pairing import require_pair
from crosskd.structures import Losses, Targets
from tests.support import small

SIZES = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]  # of an image of 64 x 96 pixels
TIGHT: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-12}


def detector(seed: int = 0, *, channels: int = 8, **options: Any) -> Detector:
    return small.detector(seed, channels=channels, depth=1, **options).double()


def batch() -> tuple[Tensor, Targets]:
    """Images [N, 3, 64, 96] and what is in them."""
    images, targets = small.batch(size=(64, 96))
    return images.double(), targets.to("cpu", torch.float64)


def distiller(student: Detector, teacher: Detector, **terms: Any) -> Distiller:
    return build_distiller(student, teacher, DistillConfig.model_validate(terms)).double().train()


def targets(boxes: list[list[list[float]]]) -> Targets:
    """Boxes of each image of 64 x 96 pixels, of which the last has 32 columns of batch padding, if not alone."""
    tensors = [torch.tensor(rows, dtype=torch.float64).reshape(-1, 4) for rows in boxes]
    labels = [torch.arange(len(rows)) % small.CLASSES for rows in tensors]
    sizes = [(64, 96)] * len(boxes)
    return Targets(tensors, labels, sizes, sizes if len(boxes) == 1 else [*sizes[:-1], (64, 64)])


TWO = targets([[[4, 6, 40, 50], [20, 10, 60, 30]], [[1, 3, 22, 60]]])
EMPTY = targets([[], []])


def maps(channels: int, images: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, channels, *size, generator=generator, dtype=torch.float64) for size in SIZES]


def step(student: Detector, teacher: Detector, targets: Targets = TWO) -> Step:
    """The student's maps want a gradient, the teacher's have none."""
    views = []
    for seed, model in enumerate((student, teacher)):
        features = maps(model.config.neck.channels, len(targets.boxes), seed)
        with torch.set_grad_enabled(model is student):
            if model is student:
                features = [feature.requires_grad_() for feature in features]
            predictions = model.head(features)
            assignment = model.head.assign(predictions, targets)
            anchors = model.head.anchors(SIZES, features[0])
        views.append(
            View(model.head, features=features, predictions=predictions, assignment=assignment, anchors=anchors)
        )
    return Step(views[0], views[1], targets)


def term(name: str, student: Detector, teacher: Detector, **knobs: Any) -> Term:
    """The term, its own parameters far from their start, in float64."""
    resolved = require_pair(DistillConfig.model_validate({name: knobs}), student.config, teacher.config)
    torch.manual_seed(7)
    made: Term = registry.load(registry.TERMS[name].target)(resolved.terms()[name], student, teacher).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made


class Witness(Term):
    """A term that distils nothing and keeps what it has seen."""

    def __init__(self, *needs: Need) -> None:
        super(Term, self).__init__()
        self.needs = needs
        self.steps: list[Step] = []

    def forward(self, step: Step) -> Losses:
        self.steps.append(step)
        return {}


def gradients(made: Term, given: Step) -> list[Tensor]:
    """Of the term's losses by the student's maps, level by level; zeros where there is none."""
    loss = small.total(made(given))
    found = torch.autograd.grad(loss, given.student.features, allow_unused=True)
    return [
        torch.zeros_like(feature) if gradient is None else gradient
        for gradient, feature in zip(found, given.student.features, strict=True)
    ]
