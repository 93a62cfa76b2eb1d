"""LW-DETR and RF-DETR against the library's own whole models, backbone included, on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.backbones.vit import library_config
from crosskd.detectors.detector import Detector
from crosskd.detectors.detr import library
from crosskd.detectors.detr.detector import least_side
from crosskd.distill.distiller import build_distiller
from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.spec.detr.section import library_values
from crosskd.spec.detr.types import TYPES
from crosskd.structures import Targets
from tests.support import detrs, small

KINDS = ("lw_detr", "rf_detr")


def of_library(model: Detector) -> Any:
    """The library's `...ForObjectDetection`, built by itself, with the detector's weights by the library's names."""
    import transformers

    kind = library.kind_of(model.config)
    assert model.config.detr is not None
    values = {**library_values(model.config.detr, kind), "num_labels": model.num_classes}
    settings = getattr(transformers, kind.config)(**values, backbone_config=library_config(model.config.backbone))
    whole: Any = getattr(transformers, kind.model)(settings)
    places = {"backbone.net.": "model.backbone.backbone.", "neck.": "model.backbone.projector.", "head.": ""}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        ours, theirs = next((ours, theirs) for ours, theirs in places.items() if name.startswith(ours))
        state[theirs + name.removeprefix(ours)] = tensor
    whole.load_state_dict(state)
    return whole.train(model.training)


def batch(side: int) -> tuple[Tensor, Targets]:
    images, targets = small.batch(size=(side, side))
    return images, Targets(targets.boxes, targets.labels, [(side, side), (side, side - 24)], targets.padded)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_in_training_are_those_of_the_librarys_own_model(kind: str) -> None:
    model = detrs.detector(kind, dropout=0.0).train()
    images, targets = batch(96)
    whole = of_library(model)
    made = model.view("student", model.features(images), targets, ())
    mask = library.pixel_mask(targets.sizes, (96, 96), images.device)
    theirs = whole(images, pixel_mask=mask, labels=made.labels)  # type: ignore[attr-defined]
    ours = torch.stack([loss.sum() for loss in made.losses().values()]).sum()
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    ours.backward()
    theirs.loss.backward()
    wanted = {name: p.grad for name, p in whole.named_parameters()}
    patches = "backbone.net.embeddings.position_embeddings"
    torch.testing.assert_close(
        model.get_parameter(patches).grad, wanted["model.backbone.backbone.embeddings.position_embeddings"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_those_of_the_librarys_own_model(kind: str) -> None:
    model = detrs.detector(kind).eval()
    images, targets = batch(64)
    with torch.no_grad():
        output = of_library(model)(images, pixel_mask=library.pixel_mask(targets.sizes, (64, 64), images.device))
    found = model.predict(images, targets.sizes)  # type: ignore[operator]
    for (scores, boxes), logits, shares, size in zip(
        found, output.logits, output.pred_boxes, targets.sizes, strict=True
    ):
        torch.testing.assert_close(scores, logits.sigmoid(), rtol=0, atol=1e-6)
        centre, half = shares[:, :2], shares[:, 2:] / 2
        wanted = torch.cat((centre - half, centre + half), 1) * torch.tensor([size[1], size[0]] * 2)
        limits = torch.tensor([size[1], size[0]] * 2)
        torch.testing.assert_close(boxes, wanted.clamp(min=0).minimum(limits), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_padded_to_whole_windows_and_to_cells_for_all_queries(kind: str) -> None:
    model = detrs.detector(kind).eval()
    vit = model.config.backbone.vit
    assert vit is not None
    assert vit.step == 32
    assert model.padded(33, 95) == (64, 96)
    maps = model.features(torch.zeros(1, 3, 33, 95))
    assert [tuple(x.shape[-2:]) for x in maps] == [(64 // s, 96 // s) for s in model.strides]
    assert len(model.detect(torch.randn(1, 3, 33, 95), [(33, 95)])[0].scores) > 3
    many = detrs.config(kind, queries=100)
    side = least_side(many)
    cells = sum((side // stride) ** 2 for stride in many.strides)
    before = sum(((side - vit.step) // stride) ** 2 for stride in many.strides)
    assert before < 100 <= cells


def test_images_that_two_models_pad_to_other_sizes_are_padded_alike() -> None:
    student = detrs.detector("lw_detr", scales=[1])
    other = detrs.config("lw_detr", scales=[1]).model_dump(exclude_unset=True)
    other["backbone"]["vit"]["windows"] = 3
    from crosskd.detectors.detector import build_detector

    teacher = build_detector(ModelConfig.model_validate(other), small.CLASSES)
    distiller = build_distiller(student, teacher, DistillConfig.model_validate({"fitnet": {}})).train()
    losses = distiller(*small.batch(size=(64, 72)))
    assert losses["fitnet"].isfinite().all()
    assert distiller._large_enough(torch.zeros(1, 3, 64, 72)).shape[-2:] == (96, 96)


def test_queries_begin_where_the_proposals_are() -> None:
    torch.manual_seed(0)
    for kind in KINDS:
        model = small_start(kind)
        assert not model.head.model.reference_point_embed.weight.any()
        assert TYPES[kind].masked  # type: ignore[index]


def small_start(kind: str) -> Detector:
    from crosskd.detectors.detector import build_detector

    return build_detector(detrs.config(kind), small.CLASSES)
