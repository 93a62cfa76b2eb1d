"""Names, one to one, against the names that MMDetection's checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosskd.config import BackboneConfig, ModelConfig
from crosskd.convert.mmdet import from_mmdet, to_mmdet
from crosskd.detectors.detector import build_detector
from crosskd.errors import WeightsError

KEYS = json.loads((Path(__file__).parents[2] / "data/oracle/state_dict_keys.json").read_text())


def shapes(backbone: str) -> dict[str, list[int]]:
    config = ModelConfig(backbone=BackboneConfig(name=backbone, init="random"))
    return {name: list(tensor.shape) for name, tensor in build_detector(config, 80).state_dict().items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_every_tensor_has_its_counterpart_of_the_same_shape(depth: int) -> None:
    ours, theirs = shapes(f"resnet{depth}"), KEYS[f"gfl_r{depth}"]
    assert {to_mmdet(name): shape for name, shape in ours.items()} == theirs
    assert {from_mmdet(name): shape for name, shape in theirs.items()} == ours


def test_a_teachers_neck_and_head_are_the_same() -> None:
    ours = {name: shape for name, shape in shapes("resnet50").items() if not name.startswith("backbone")}
    assert {to_mmdet(name): shape for name, shape in ours.items()} == KEYS["gfl_teacher_r50"]


@pytest.mark.parametrize("group", ["gfl_r18", "gfl_r50", "gfl_teacher_r50"])
def test_there_and_back_is_where_we_were(group: str) -> None:
    for theirs in KEYS[group]:
        assert to_mmdet(from_mmdet(theirs)) == theirs


@pytest.mark.parametrize(
    "name", ["bbox_head.retina_cls.weight", "head.cls.weight", "bbox_head.gfl_cls.weight.more", ""]
)
def test_a_strange_name_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="MMDetection's names"):
        from_mmdet(name)


@pytest.mark.parametrize("name", ["bbox_head.gfl_cls.weight", "head.cls", "neck.lateral.x.weight"])
def test_a_name_that_is_not_ours_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="this project's names"):
        to_mmdet(name)
