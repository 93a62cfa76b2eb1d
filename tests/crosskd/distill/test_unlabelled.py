"""Images without labels: never background, and for a term what the teacher is sure of stands for the ground truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.distill.unlabelled import without_truth
from crosskd.spec import registry
from crosskd.spec.config import DistillConfig
from crosskd.structures import Losses, Targets
from tests.support import detrs, small

CONFIDENCE = 0.02  # of a teacher that has learnt nothing
KNOWN, UNKNOWN = 2, 1
NARROW = {"rtmdet": {"head": {"norm": "batch"}}, "yolox": {"head": {"norm": "batch"}}}


def detector(name: str, seed: int) -> Detector:
    if name == "faster_rcnn":
        return small.two_stage(seed, regions={"samples": 512})  # all there are: none by chance
    if name in detrs.KNOBS:
        return detrs.detector(name, seed)
    return small.detector(seed, detector=name, channels=8, depth=2, strides=[8, 16, 32], **NARROW.get(name, {}))


def pair(name: str, **terms: Any) -> Distiller:
    """Batch norm, which sees all images of a batch, as it is in an evaluation."""
    config = DistillConfig.model_validate(terms)
    made = build_distiller(detector(name, 0), detector(name, 1), config, confidence=CONFIDENCE).train()
    for module in made.student.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
        # Dropout is drawn for the labelled images first; the library has it as a number, or as a module.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif name in detrs.KNOBS and isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return made if name in detrs.KNOBS else made.double()  # the library computes D-FINE's loss in single precision


def batch() -> tuple[Tensor, Targets]:
    """Two images with boxes, and one behind them of which nothing is known."""
    images, targets = small.batch(images=KNOWN + UNKNOWN, size=(96, 96))
    sizes = [(96, 96)] * (KNOWN + UNKNOWN)
    nothing = [torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)]
    boxes, labels = (
        [*given[:KNOWN], none] for given, none in zip((targets.boxes, targets.labels), nothing, strict=True)
    )
    whole = Targets(boxes, labels, sizes, sizes, unlabelled=UNKNOWN)
    return images, whole


def losses(made: Distiller, images: Tensor, targets: Targets) -> Losses:
    precision = next(made.parameters()).dtype
    images, targets = images.to(precision), targets.to("cpu", precision)
    torch.manual_seed(3)  # samples of anchors, noisy queries
    return {name: value.detach() for name, value in made(images, targets).items()}


def taken_for_truth(made: Distiller, images: Tensor, targets: Targets) -> Targets:
    """The teacher's confident detections, asked for in the plain way."""
    postprocess = made.teacher.config.postprocess.model_copy(update={"score_threshold": CONFIDENCE})
    images = images.to(next(made.parameters()).dtype)
    found = made.teacher.detect(made.renormalise(images, targets.sizes), targets.sizes, postprocess)
    clipped = [each.boxes.clamp(0, 96) for each in found]  # YOLOX's reach out of their image
    kept = [
        (each.scores >= CONFIDENCE) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        for each, boxes in zip(found, clipped, strict=True)
    ]
    boxes = [boxes[there] for boxes, there in zip(clipped, kept, strict=True)]
    labels = [each.labels[there] for each, there in zip(found, kept, strict=True)]
    return replace(targets, boxes=boxes, labels=labels, unlabelled=0)


@pytest.mark.parametrize("name", list(registry.DETECTORS))
def test_labelled_images_count_as_if_alone_and_the_others_by_what_the_teacher_is_sure_of(name: str) -> None:
    made = pair(name, crosskd={}, pkd={})
    images, targets = batch()
    together = losses(made, images, targets)
    told = made.figures()
    known = losses(made, images[:KNOWN], targets.part(slice(0, KNOWN)))
    rest = slice(KNOWN, KNOWN + UNKNOWN)
    truth = taken_for_truth(made, images[rest], targets.part(rest))
    unknown = losses(made, images[rest], truth)
    assert together.keys() == known.keys()
    share = UNKNOWN / (KNOWN + UNKNOWN)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if name in detrs.KNOBS else {"rtol": 1e-9, "atol": 1e-12}
    for loss, value in together.items():
        distils = loss.startswith(("crosskd", "pkd"))
        expected = (1 - share) * known[loss] + share * unknown[loss] if distils else known[loss]
        torch.testing.assert_close(value, expected, **tolerance, msg=lambda m, loss=loss: f"{loss}: {m}")
    assert told == {"unlabelled_images": UNKNOWN, "unlabelled_confident": sum(map(len, truth.boxes)) / UNKNOWN}
    assert made.figures() == {}
    assert told["unlabelled_confident"] > 0


def test_what_asks_for_the_ground_truth_counts_labelled_images_alone() -> None:
    made = pair("gfl", **{name: {} for name in registry.TERMS})
    images, targets = batch()
    together, known = losses(made, images, targets), losses(made, images[:KNOWN], targets.part(slice(0, KNOWN)))
    assert together.keys() == known.keys()
    asking = {name for name in known if torch.equal(together[name], known[name])}
    expected = {"loss_cls", "loss_bbox", "loss_dfl", "fgd_foreground", "fgd_background", "ld_vlr"}
    assert asking == expected | {"imitation", "fgfi", "defeat_foreground", "defeat_background"}
    assert {entry for name in registry.TERMS for entry in registry.TERMS[name].truth if name in ("fgd", "ld")} <= asking
    assert without_truth({"ld": made.terms["ld"]}, {"ld_main": images, "ld_vlr": images}).keys() == {"ld_main"}


def test_maps_alone_cost_no_look_for_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pair("gfl", pkd={})
    monkeypatch.setattr(made.teacher, "found", None)
    losses(made, *batch())
    assert made.figures() == {"unlabelled_images": UNKNOWN}
