"""Names, one to one, against the names that MMDetection's checkpoints have; and what it cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from crosskd.convert.mmdet import from_mmdet, further_names, incompatibilities, to_mmdet
from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.registry import DENSE
from tests.support.mmdet_names import KEYS, RTMDET, YOLOX, shapes

OWN = {"rtmdet": ("cspnext", RTMDET), "yolox": ("cspdarknet", YOLOX)}  # with backbones of their own
WITH_RESNETS = [name for name in DENSE if name not in OWN]  # whose names are of models with ResNets

OTHER = {
    "gfl": "retina",
    "retinanet": "atss",
    "atss": "gfl",
    "fcos": "gfl",
    "rtmdet": "gfl",
    "yolox": "gfl",
}  # begins another detector's layers


def model(detector: str, backbone: str, **more: Any) -> ModelConfig:
    return ModelConfig.model_validate({"detector": detector, "backbone": {"name": backbone, "init": "random"}, **more})


def test_every_set_of_names_is_of_a_detector_here() -> None:
    assert {group.partition("_")[0] for group in KEYS} == {*WITH_RESNETS}
    assert {*WITH_RESNETS, *OWN} == set(DENSE)


@pytest.mark.parametrize("detector", WITH_RESNETS)
@pytest.mark.parametrize("depth", [18, 50])
def test_every_tensor_has_its_counterpart_of_the_same_shape(detector: str, depth: int) -> None:
    ours, theirs = shapes(model(detector, f"resnet{depth}")), KEYS[f"{detector}_r{depth}"]
    assert {to_mmdet(name, detector): shape for name, shape in ours.items()} == theirs
    assert {from_mmdet(name, detector): shape for name, shape in theirs.items()} == ours


@pytest.mark.parametrize(("detector", "size"), [(name, size) for name, (_, sizes) in OWN.items() for size in sizes])
def test_their_tensors_have_their_counterparts_and_shared_ones_one_a_level(detector: str, size: str) -> None:
    family, known = OWN[detector]
    config = model(detector, f"{family}_{size}")
    ours = shapes(config)
    written = {name: to_mmdet(name, detector) for name in ours}
    theirs = {name: ours[mine] for mine, first in written.items() for name in (first, *further_names(first, config))}
    assert theirs == known[size]
    assert {from_mmdet(name, detector) for name in known[size]} == ours.keys()


@pytest.mark.parametrize("detector", WITH_RESNETS)
def test_a_teachers_neck_and_head_are_the_same(detector: str) -> None:
    # MMDetection's own RetinaNet takes P6 from C5, the published CrossKD students from P5.
    config = model(detector, "resnet50", neck={"p6_from": "c5" if detector == "retinanet" else "p5"})
    ours = {name: shape for name, shape in shapes(config).items() if not name.startswith("backbone")}
    assert {to_mmdet(name, detector): shape for name, shape in ours.items()} == KEYS[f"{detector}_teacher_r50"]


@pytest.mark.parametrize("group", KEYS)
def test_there_and_back_is_where_we_were(group: str) -> None:
    detector = group.partition("_")[0]
    for theirs in KEYS[group]:
        assert to_mmdet(from_mmdet(theirs, detector), detector) == theirs


@pytest.mark.parametrize("detector", DENSE)
def test_names_of_another_detector_are_refused(detector: str) -> None:
    with pytest.raises(WeightsError, match=f"MMDetection's names for a {detector} detector"):
        from_mmdet(f"bbox_head.{OTHER[detector]}_cls.weight", detector)


@pytest.mark.parametrize(
    "name",
    ["head.cls.weight", "bbox_head.gfl_cls.weight.more", "backbone.layer5.0.conv1.weight", "backbone.fc.bias", ""],
)
def test_a_strange_name_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="MMDetection's names"):
        from_mmdet(name, "gfl")


@pytest.mark.parametrize("name", ["bbox_head.gfl_cls.weight", "head.cls", "neck.lateral.x.weight"])
def test_a_name_that_is_not_ours_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="this project's names"):
        to_mmdet(name, "gfl")


@pytest.mark.parametrize(
    "config",
    [
        *(model(detector, "resnet50") for detector in DENSE),
        model("retinanet", "swin_t"),
        model("rtmdet", "cspnext_tiny"),
        model("yolox", "cspdarknet_nano"),
        model("fcos", "resnet50", head={"conv_bias": True, "norm_on_bbox": True}),
        model("retinanet", "resnet50", head={"norm": "group"}),
    ],
)
def test_what_mmdetection_can_be(config: ModelConfig) -> None:
    assert incompatibilities(config) == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (model("gfl", "mobilenet_v2"), "names for a mobilenet_v2 backbone"),
        (model("retinanet", "resnet18", head={"whole_pixel_anchors": True}), "whole_pixel_anchors"),
        (model("retinanet", "resnet18", head={"spread_cells": True}), "spread_cells"),
        (model("fcos", "resnet18", head={"point_offset": 0.0}), "point_offset is 0"),
        (model("fcos", "resnet18", postprocess={"score": "root"}), "postprocess.score is root"),
        (model("gfl", "resnet18", head={"conv_bias": True}), "conv_bias"),
    ],
)
def test_what_it_cannot_be_has_its_reason(config: ModelConfig, reason: str) -> None:
    (why,) = incompatibilities(config)
    assert reason in why
