"""Megvii's names: each layer of YOLOX by their rule of naming, and that what comes of it detects as MMDetection's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from crosskd.convert.convert import prepare
from crosskd.convert.formats import format_of, from_native
from crosskd.convert.load import load_weights
from crosskd.convert.megvii import from_megvii, to_megvii
from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.weights.native import read_weights
from tests.support import small
from tests.support.mmdet_names import YOLOX, shapes

# MMDetection's names -> Megvii's, as both projects' sources build the same layers.
RULES = (
    (r"^bbox_head\.multi_level_(cls|reg)_convs\.", r"head.\1_convs."),
    (r"^bbox_head\.multi_level_conv_(cls|reg|obj)\.", r"head.\1_preds."),
    (r"^neck\.out_convs\.", "head.stems."),
    (r"^neck\.reduce_layers\.0\.", "backbone.lateral_conv0."),
    (r"^neck\.reduce_layers\.1\.", "backbone.reduce_conv1."),
    (r"^neck\.top_down_blocks\.0\.", "backbone.C3_p4."),
    (r"^neck\.top_down_blocks\.1\.", "backbone.C3_p3."),
    (r"^neck\.downsamples\.0\.", "backbone.bu_conv2."),
    (r"^neck\.downsamples\.1\.", "backbone.bu_conv1."),
    (r"^neck\.bottom_up_blocks\.0\.", "backbone.C3_n3."),
    (r"^neck\.bottom_up_blocks\.1\.", "backbone.C3_n4."),
    (r"^backbone\.stem\.", "backbone.backbone.stem."),
    *((rf"^backbone\.stage{i}\.", f"backbone.backbone.dark{i + 1}.") for i in (1, 2, 3, 4)),
    (r"\.main_conv\.", ".conv1."),
    (r"\.short_conv\.", ".conv2."),
    (r"\.final_conv\.", ".conv3."),
    (r"\.blocks\.", ".m."),
    (r"\.depthwise_conv\.", ".dconv."),
    (r"\.pointwise_conv\.", ".pconv."),
)


def megvii(name: str) -> str:
    for pattern, other in RULES:
        name = re.sub(pattern, other, name)
    return name


@pytest.mark.parametrize("size", YOLOX)
def test_every_tensor_has_its_counterpart_of_the_same_shape(size: str) -> None:
    model = ModelConfig.model_validate({"detector": "yolox", "backbone": {"name": f"cspdarknet_{size}"}})
    theirs = {megvii(name): shape for name, shape in YOLOX[size].items()}
    ours = shapes(model)
    assert {from_megvii(name): shape for name, shape in theirs.items()} == ours
    assert {to_megvii(name): shape for name, shape in ours.items()} == theirs


@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_a_checkpoint_is_recognised_and_detects_as_mmdetections(size: str, tmp_path: Path) -> None:
    images, targets = small.batch()
    backbone = {"name": f"cspdarknet_{size}", "width": 8}
    model = small.settled(small.detector(0, detector="yolox", depth=2, backbone=backbone), images)
    theirs = {megvii(name): tensor for name, tensor in from_native(model.state_dict(), "mmdet", model.config).items()}
    torch.save({"start_epoch": 300, "model": theirs, "optimizer": {"state": {}}}, tmp_path / "yolox.pth")
    found = prepare(tmp_path / "yolox.pth", "native", classes=["a", "b", "c"])
    assert (found.model.detector, found.model.backbone.name) == ("yolox", f"cspdarknet_{size}")
    assert (found.model.pixels.order, found.model.pixels.padding) == ("bgr", 114.0)
    assert any("since version 0.1.1" in note for note in found.report.notes)
    found.write(tmp_path / "ours.safetensors")
    assert read_weights(tmp_path / "ours.safetensors")[0].keys() == model.state_dict().keys()

    again = small.detector(1, detector="yolox", depth=2, backbone=backbone).eval()
    load_weights(again, tmp_path / "yolox.pth")
    for mine, wanted in zip(again.detect(images, targets.sizes), model.detect(images, targets.sizes), strict=True):
        assert len(wanted.scores)
        assert torch.equal(mine.boxes, wanted.boxes)
        assert torch.equal(mine.labels, wanted.labels)


def test_such_files_are_told_from_ours_and_not_written(tmp_path: Path) -> None:
    assert format_of(["backbone.backbone.stem.conv.conv.weight", "head.cls_preds.0.weight"], "x.pth") == "megvii"
    assert from_megvii("head.cls_preds.0.running_mean") is None
    model = small.detector(0, detector="yolox", depth=2)
    with pytest.raises(WeightsError, match="only read"):
        from_native(model.state_dict(), "megvii", model.config)
