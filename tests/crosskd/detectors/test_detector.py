"""The detector as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosskd.detectors.detector import build_detector
from crosskd.detectors.fpn import FPN
from crosskd.errors import ConfigError
from crosskd.spec.config import NeckConfig
from crosskd.spec.registry import BACKBONES, lookup
from tests.support import small


def test_features_have_the_strides_of_the_pyramid() -> None:
    model = small.detector()
    maps = model.features(torch.randn(1, 3, 128, 160))
    assert [tuple(m.shape) for m in maps] == [(1, 16, 128 // s, -(-160 // s)) for s in model.strides]


def test_a_pyramid_that_ends_in_a_single_column_has_a_whole_gradient_in_half_precision() -> None:
    neck = FPN([8, 8, 8], NeckConfig(channels=16), levels=5)
    maps = [torch.randn(1, 8, 2 * size, size) for size in (4, 2, 1)]
    gradients = []
    for _ in range(8):  # of what the library leaves unset, some is zero by chance
        _fill_freed_memory(float("nan"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pyramid = neck(maps)
        neck.zero_grad()
        torch.stack([level.float().square().sum() for level in pyramid]).sum().backward()
        gradients.append([conv.weight.grad.clone() for conv in neck.output])
    assert [level.shape[-1] for level in pyramid] == [4, 2, 1, 1, 1]
    for again in gradients[1:]:
        for first, other in zip(gradients[0], again, strict=True):
            torch.testing.assert_close(other, first, rtol=0, atol=0)


def _fill_freed_memory(value: float) -> None:
    kept = [torch.full((16 * 16 * 9 * size,), value) for size in (1, 2, 1)]
    del kept


def test_every_detection_lies_in_its_own_image() -> None:
    model = small.detector().eval()
    images, targets = small.batch()
    everything = model.config.postprocess.model_copy(update={"score_threshold": 0.0, "nms_iou": 1.0})
    found = model.detect(images, targets.sizes, everything)
    for detections, (height, width) in zip(found, targets.sizes, strict=True):
        assert len(detections.scores) == 100
        assert detections.boxes[:, 0::2].max() <= width
        assert detections.boxes[:, 1::2].max() <= height
        assert detections.boxes.min() >= 0
        assert (detections.scores.diff() <= 0).all()
        assert not detections.boxes.requires_grad


def test_a_detector_that_sees_nothing_says_nothing() -> None:
    model = small.detector().eval()
    images, targets = small.batch()
    certain = model.config.postprocess.model_copy(update={"score_threshold": 1.0})
    assert [len(found.boxes) for found in model.detect(images, targets.sizes, certain)] == [0, 0]


def test_without_pretrained_the_backbones_weights_are_not_asked_for() -> None:
    missing = {"name": "resnet_tiny", "width": 8, "init": {"file": "no/such/file.pth"}}
    model = build_detector(small.config(backbone=missing), small.CLASSES, pretrained=False)
    assert model.backbone.frozen_stages == 1  # what follows from `init` holds all the same


def test_training_mode_honours_frozen_stages() -> None:
    model = small.detector(backbone={"frozen_stages": 1, "norm_eval": False}).train()
    assert model.training
    assert not model.backbone.layer1.training
    assert model.backbone.layer2.training


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'vgg'.*resnet101, resnet18"):
        lookup(BACKBONES, "vgg", "backbone")


@pytest.mark.parametrize(
    ("options", "size", "what"),
    [
        ({"strides": [8, 16, 32, 64, 128]}, (64, 96), "map of stride 128"),
        ({"backbone": {"name": "cspnext_tiny", "norm_eval": True}}, (32, 32), "C5"),
    ],
)
def test_batch_norm_of_a_single_value_is_refused_with_what_to_do(
    options: dict[str, Any], size: tuple[int, int], what: str
) -> None:
    model = small.detector(detector="rtmdet", depth=2, **options).train()
    images = torch.randn(1, 3, *size)
    with pytest.raises(ConfigError, match=f"{what} has a single cell") as caught:
        model.head(model.features(images))
    assert caught.value.where == "/batch_size"
    model.head(model.features(images.repeat(2, 1, 1, 1)))
    model.eval().head(model.features(images))
