"""Images without ground truth in a step: what stands for it where a term counts objects, and how losses are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from crosskd.boxes.ops import clip
from crosskd.detectors.detector import Detector
from crosskd.detectors.view import Pass
from crosskd.distill.term import Term
from crosskd.spec import registry
from crosskd.spec.distill.needs import Need, Pyramid
from crosskd.structures import Losses, Targets

LEAST_SIDE = 1.0  # pixels of a box that counts


def parts(targets: Targets) -> list[slice]:
    """The images with ground truth, and behind them those without, where there are any."""
    images = len(targets.boxes)
    known = images - targets.unlabelled
    return [slice(0, known)] + ([slice(known, images)] if targets.unlabelled else [])


def on_unlabelled(terms: Mapping[str, Term]) -> dict[str, Term]:
    """The terms that learn anything from an image without ground truth."""
    return {name: term for name, term in terms.items() if registry.TERMS[name].truth != "all"}


def looks_for_objects(needs: Sequence[Need]) -> bool:
    """Whether a term asks for more than maps: then the teacher says what there is."""
    return any(not isinstance(need, Pyramid) for need in needs)


@torch.no_grad()
def sure_of(teacher: Detector, made: Pass, targets: Targets, confidence: float) -> Targets:
    """`targets` with the teacher's own detections from the score `confidence` on in place of the ground truth.

    They say which anchors or regions are positive, and so what losses are divided by. Nobody learns them: what is
    imitated are the teacher's predictions as they are.
    """
    postprocess = teacher.config.postprocess.model_copy(update={"score_threshold": confidence})
    boxes, labels = [], []
    for found, size in zip(teacher.found(made, targets.sizes, postprocess), targets.sizes, strict=True):
        clipped = clip(found.boxes, size)
        # The threshold of a dense head is one of classes alone: centerness lowers the score behind it.
        there = (found.scores >= confidence) & (clipped[:, 2:] - clipped[:, :2] >= LEAST_SIDE).all(1)
        boxes.append(clipped[there])
        labels.append(found.labels[there])
    return replace(targets, boxes=boxes, labels=labels)


def without_truth(terms: Mapping[str, Term], losses: Losses) -> Losses:
    """Of the losses of `terms` those that need no ground truth."""
    asking = {loss for name in terms for loss in registry.TERMS[name].truth}
    return {name: value for name, value in losses.items() if name not in asking}


def joined(known: Losses, unknown: Losses, share: float) -> Losses:
    """The mean of both parts of a batch, `share` of whose images are of the second; what that lacks is the first's.

    So the weight of a term says the same with images without ground truth and without them.
    """
    return known | {name: (1 - share) * known[name] + share * value for name, value in unknown.items()}
