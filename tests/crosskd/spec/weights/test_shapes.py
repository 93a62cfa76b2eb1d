"""The torch-free table of shapes against real detectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from crosskd.detectors.detector import build_detector
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.weights.shapes import expected_shapes, parameter_count
from tests.support import small

_OF_DETRS = ("rt_detr_resnet", "hgnet_v2", "vit")
OF_LIBRARY = [name for name, entry in registry.BACKBONES.items() if entry.family in _OF_DETRS]
OURS = [name for name in registry.BACKBONES if not name.startswith(registry.TIMM) and name not in OF_LIBRARY]
CASES: list[dict[str, Any]] = [
    *({"detector": detector, "backbone": name} for detector in registry.DENSE for name in OURS),
    *({"backbone": name, "width": 24} for name in OURS if registry.BACKBONES[name].width),
    *({"backbone": "mobilenet_v2", "width": width} for width in (8, 16, 40, 72)),  # rounded up and down
    *({"strides": [8, 16, 32, 64, 128][:count]} for count in (3, 4, 5)),
    *({"depth": depth} for depth in (0, 1, 4)),
    {"neck": 24, "head": 48, "reg_max": 7, "classes": 11},
    {"neck": 24, "head": 48, "depth": 0},
    {"detector": "retinanet", "p6_from": "c5", "octaves": 2, "ratios": [1.0]},
    {"detector": "retinanet", "p6_from": "c5", "strides": [8, 16, 32], "norm": "group"},
    {"detector": "rtmdet", "backbone": "cspnext_m", "width": 8, "depth": 3},
    {"detector": "gfl", "backbone": "mobilenet_v2", "kind": "pafpn", "strides": [8, 16, 32]},
    {"detector": "yolox", "backbone": "cspdarknet_m", "width": 8, "depth": 3},
    {"detector": "yolox", "backbone": "cspdarknet_nano"},
    {"detector": "fcos", "norm": "none"},
    {"detector": "atss", "norm": "group", "conv_bias": True},
    {"detector": "gfl", "norm": "none", "conv_bias": False},
]


def model_config(case: dict[str, Any]) -> ModelConfig:
    of_neck = ("kind", "p6_from")
    knobs = ("depth", "reg_max", "octaves", "ratios", "norm", "conv_bias")
    head = {"channels": case.get("head", 32), "depth": 2, "norm_groups": 8}
    return ModelConfig.model_validate(
        {
            "detector": case.get("detector", "gfl"),
            "backbone": {"name": case.get("backbone", "resnet_tiny"), "width": case.get("width"), "init": "random"},
            "neck": {"channels": case.get("neck", 32), **{knob: case[knob] for knob in of_neck if knob in case}},
            "head": {**head, **{knob: case[knob] for knob in knobs if knob in case}},
            **({"strides": case["strides"]} if "strides" in case else {}),
        }
    )


TWO_STAGE = [
    *({"backbone": {"name": name}} for name in OURS),
    *({"regions": {"version": version, "channels": 40}, "channels": 24} for version in ("v1", "v2")),
    {"backbone": {"name": "mobilenet_v3_large"}, "strides": [32, 32, 64], "regions": {"anchor_sizes": [32, 64]}},
]


@pytest.mark.parametrize("case", TWO_STAGE, ids=str)
def test_it_is_the_state_dict_of_two_stages_too(case: dict[str, Any]) -> None:
    backbone = {"width": None, "init": "random", **case.get("backbone", {})}
    config = small.two_stage_config(**{**case, "backbone": backbone})
    with torch.device("meta"):
        model = build_detector(config, 3)
    real = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert list(expected_shapes(config, 3).items()) == list(real.items())
    assert parameter_count(config, 3) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_state_dict_without_torch(case: dict[str, Any]) -> None:
    config, classes = model_config(case), case.get("classes", 3)
    with torch.device("meta"):  # shapes without memory
        model = build_detector(config, classes)
    real = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = expected_shapes(config, classes)
    assert list(expected.items()) == list(real.items())
    assert not any(expected.allows_unlisted(name) for name in ("backbone.more", "head.more"))
    assert parameter_count(config, classes) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet"])
def test_of_a_timm_backbone_it_tells_the_size_and_leaves_the_names_open(name: str) -> None:
    config = model_config({"backbone": name, "p6_from": "c5"})
    with torch.device("meta"):
        model = build_detector(config, 3)
    real = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = expected_shapes(config, 3)
    assert expected == {name: shape for name, shape in real.items() if not name.startswith("backbone.")}
    assert all(expected.allows_unlisted(name) == name.startswith("backbone.") for name in real)
    assert parameter_count(config, 3) == sum(parameter.numel() for parameter in model.parameters())
