"""The torch-free table of shapes against real detectors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from crosskd import registry
from crosskd.config import BackboneConfig, HeadConfig, ModelConfig, NeckConfig
from crosskd.detectors.detector import build_detector
from crosskd.shapes import expected_shapes, parameter_count

CASES: list[dict[str, Any]] = [
    *({"backbone": name} for name in registry.BACKBONES),
    *({"backbone": name, "width": 8} for name in registry.BACKBONES),
    *({"strides": [8, 16, 32, 64, 128][:count]} for count in (3, 4, 5)),
    *({"depth": depth} for depth in (0, 1, 4)),
    {"neck": 24, "head": 48, "reg_max": 7, "classes": 11},
    {"neck": 24, "head": 48, "depth": 0},
]


def model_config(case: dict[str, Any]) -> ModelConfig:
    backbone = {"name": case.get("backbone", "resnet_tiny"), "width": case.get("width"), "init": "random"}
    head = HeadConfig(
        channels=case.get("head", 32), depth=case.get("depth", 2), norm_groups=8, reg_max=case.get("reg_max", 16)
    )
    return ModelConfig(
        backbone=BackboneConfig.model_validate(backbone),
        neck=NeckConfig(channels=case.get("neck", 32)),
        head=head,
        strides=case.get("strides", [8, 16, 32, 64, 128]),
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_state_dict_without_torch(case: dict[str, Any]) -> None:
    config, classes = model_config(case), case.get("classes", 3)
    with torch.device("meta"):  # shapes without memory
        model = build_detector(config, classes)
    real = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert expected_shapes(config, classes) == real
    assert parameter_count(config, classes) == sum(parameter.numel() for parameter in model.parameters())


def test_it_needs_no_torch() -> None:
    program = "import sys, crosskd.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
