"""MMDetection's detectors whose tensors have the same names and shapes, and compute something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.convert.convert import prepare
from crosskd.convert.formats import from_native
from crosskd.convert.load import load_weights
from crosskd.convert.mmdet_config import parse_config
from crosskd.convert.recognise import recognise
from crosskd.convert.source import Source
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec.config import ModelConfig
from tests.support import small
from tests.support.mmdet_names import KEYS

R18 = {"name": "resnet18", "width": 8, "init": "random"}
BASE: dict[str, dict[str, Any]] = {
    "gfl": {"type": "GFLHead"},
    "retinanet": {"type": "RetinaHead"},
    "atss": {"type": "ATSSHead"},
    "fcos": {"type": "FCOSHead"},
    "rtmdet": {"type": "RTMDetSepBNHead"},
    "yolox": {"type": "YOLOXHead"},
}


def tensors(detector: str, **options: Any) -> dict[str, Tensor]:
    model = small.detector(7, detector=detector, backbone=R18, **options)
    return from_native(model.state_dict(), "mmdet", model.config)


def told(detector: str, config: dict[str, Any], file: str = "x.pth", **options: Any) -> ModelConfig:
    """What is made of the tensors beside a configuration."""
    return recognise(Source(file, "mmdet", tensors(detector, **options), config=config))[0]


def with_head(detector: str, **head: Any) -> dict[str, Any]:
    return {"model": {"bbox_head": {**BASE[detector], **head}}}


BIAS = {"head": {"conv_bias": True}}


@pytest.mark.parametrize("bias", [False, True], ids=["as first published", "improved"])
def test_fcos_is_told_by_the_bias_beside_its_norms(tmp_path: Path, bias: bool) -> None:
    """MMDetection's `fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou`, whose file may be bare."""
    torch.save(tensors("fcos", **(BIAS if bias else {})), tmp_path / "x.pth")
    conversion = prepare(tmp_path / "x.pth", "native")
    head, losses = conversion.model.head, conversion.model.losses
    assert (head.norm_on_bbox, head.centerness_on_reg, head.center_sampling) == (bias, bias, bias)
    assert (losses.iou, losses.giou) == ((0.0, 1.0) if bias else (1.0, 0.0))
    assert (conversion.report.missing, conversion.report.unexpected) == ([], [])
    assert any(("the improved FCOS" in note) == bias for note in conversion.report.notes if "assumed" in note)
    assert any("norm_on_bbox" in note and "--model" in note for note in conversion.report.notes)


@pytest.mark.parametrize("norm_on_bbox", [False, True])
@pytest.mark.parametrize("centerness_on_reg", [False, True])
def test_the_configuration_in_the_file_goes_before_the_tensors(norm_on_bbox: bool, centerness_on_reg: bool) -> None:
    config = with_head("fcos", norm_on_bbox=norm_on_bbox, centerness_on_reg=centerness_on_reg, center_sample_radius=2.0)
    for options in ({}, BIAS):
        head = told("fcos", config, **options).head
        assert (head.norm_on_bbox, head.centerness_on_reg) == (norm_on_bbox, centerness_on_reg)
        assert (head.center_sampling, head.center_radius) == (False, 2.0)


@pytest.mark.parametrize(
    ("detector", "model", "expected"),
    [
        ("retinanet", {"backbone": {"style": "caffe"}}, {"backbone.style": "caffe"}),
        ("retinanet", {"backbone": {"norm_cfg": {"requires_grad": False}}}, {"backbone.norm_frozen": True}),
        ("fcos", {"backbone": {"style": "pytorch"}}, {"backbone.style": "pytorch", "pixels.order": "rgb"}),
        ("gfl", {"neck": {"add_extra_convs": "on_output", "relu_before_extra_convs": True}},
         {"neck.relu_before_p7": True, "neck.p6_from": "p5"}),
        ("gfl", {"neck": {"add_extra_convs": True}}, {"neck.p6_from": "c5"}),
        ("gfl", {"bbox_head": {"norm_cfg": {"type": "GN", "num_groups": 4}}}, {"head.norm_groups": 4}),
        ("atss", {"bbox_head": {"anchor_generator": {"octave_base_scale": 6}}}, {"anchor_scale": 6.0}),
        ("retinanet", {"bbox_head": {"anchor_generator": {"octave_base_scale": 3, "ratios": [0.3, 1.0, 3.0]}}},
         {"anchor_scale": 3.0, "head.ratios": [0.3, 1.0, 3.0]}),
        ("retinanet", {"bbox_head": {"loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0}}},
         {"losses.giou": 2.0, "losses.l1": 0.0}),
        ("gfl", {"test_cfg": {"score_thr": 0.1, "nms": {"type": "nms", "iou_threshold": 0.7}, "max_per_img": 50}},
         {"postprocess.score_threshold": 0.1, "postprocess.nms_iou": 0.7, "postprocess.max_detections": 50}),
        ("gfl", {"data_preprocessor": {"mean": [1, 2, 3], "std": [4, 5, 6], "bgr_to_rgb": False}},
         {"pixels.order": "bgr", "pixels.mean": (1, 2, 3), "pixels.std": (4, 5, 6)}),
        ("gfl", {"bbox_head": {"type": "mmdet.LDHead"}}, {"detector": "gfl"}),
        ("rtmdet", {"bbox_head": {"exp_on_reg": True, "loss_bbox": {"type": "GIoULoss", "loss_weight": 3.0}}},
         {"head.exp_on_reg": True, "losses.giou": 3.0}),
        ("yolox", {"bbox_head": {"loss_bbox": {"type": "IoULoss", "mode": "square", "loss_weight": 3.0}}},
         {"losses.iou": 3.0, "pixels.std": (1.0, 1.0, 1.0), "pixels.padding": 114.0}),
    ],
)  # fmt: skip
def test_what_shapes_no_tensor_is_read(detector: str, model: dict[str, Any], expected: dict[str, Any]) -> None:
    found = told(detector, {"model": {**model, "bbox_head": {**BASE[detector], **model.get("bbox_head", {})}}})
    for path, value in expected.items():
        has: Any = found
        for name in path.split("."):
            has = getattr(has, name)
        assert has == value, path


@pytest.mark.parametrize(
    ("detector", "model", "said"),
    [
        ("atss", {"bbox_head": {"type": "PAAHead"}}, "bbox_head.type is 'PAAHead', not 'ATSSHead'"),
        ("retinanet", {"bbox_head": {"type": "FreeAnchorRetinaHead"}}, "FreeAnchorRetinaHead"),
        ("retinanet", {"bbox_head": {"bbox_coder": {"target_stds": [0.1, 0.1, 0.2, 0.2]}}}, "target_stds"),
        ("retinanet", {"bbox_head": {"anchor_generator": {"type": "LegacyAnchorGenerator"}}}, "LegacyAnchorGenerator"),
        ("retinanet", {"bbox_head": {"anchor_generator": {"scales": [8]}}}, "anchor_generator.scales"),
        ("retinanet", {"bbox_head": {"loss_cls": {"use_sigmoid": False}}}, "use_sigmoid"),
        ("gfl", {"neck": {"type": "PAFPN"}}, "neck.type is 'PAFPN', not 'FPN'"),
        ("gfl", {"neck": {"add_extra_convs": "on_lateral"}}, "add_extra_convs"),
        ("gfl", {"neck": {"upsample_cfg": {"mode": "bilinear"}}}, "upsample_cfg"),
        ("gfl", {"backbone": {"dilations": [1, 1, 1, 2]}}, "backbone.dilations"),
        ("rtmdet", {"bbox_head": {"type": "RTMDetHead"}}, "RTMDetHead"),
        ("rtmdet", {"bbox_head": {"share_conv": False}}, "bbox_head.share_conv is False, not True"),
        ("yolox", {"backbone": {"norm_cfg": {"type": "BN", "eps": 1e-5}}}, "backbone.norm_cfg.eps is 1e-05, not 0.001"),
        ("yolox", {"neck": {"act_cfg": {"type": "LeakyReLU"}}}, "neck.act_cfg.type is 'LeakyReLU'"),
        ("fcos", {"bbox_head": {"strides": [4, 8, 16, 32, 64]}}, r"strides are \[4, 8"),
    ],
)
def test_what_is_another_detector_is_refused(detector: str, model: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        told(detector, {"model": {**model, "bbox_head": {**BASE[detector], **model.get("bbox_head", {})}}})
    assert f"has the tensors of a {detector}, but is another detector" in str(caught.value)


@pytest.mark.parametrize(
    ("detector", "file", "what"),
    [("atss", "paa_r50_fpn_1x_coco.pth", "PAA"), ("retinanet", "retinanet_free_anchor_r50.pth", "FreeAnchor")],
)
def test_without_a_configuration_the_files_name_is_heeded(detector: str, file: str, what: str) -> None:
    with pytest.raises(WeightsError, match=f"by its name it is {what}"):
        told(detector, {}, file)


def test_whether_rtmdets_distances_are_exponentials_is_told_by_its_size() -> None:
    for size, exp in {"s": False, "m": True}.items():
        model = small.detector(7, detector="rtmdet", backbone={"name": f"cspnext_{size}"})
        source = Source("x.pth", "mmdet", from_native(model.state_dict(), "mmdet", model.config))
        found, notes = recognise(source)
        assert (found.head.exp_on_reg, found.pixels.order) == (exp, "bgr")
        assert any(("by exp" in note) == exp for note in notes)


def test_caffe_in_the_files_name_is_heeded() -> None:
    group = KEYS["retinanet_r50"]
    state = {name: torch.zeros(shape, device="meta") for name, shape in group.items()}
    caffe, _ = recognise(Source("retinanet_r50_caffe_fpn_1x_coco_20200531.pth", "mmdet", state))
    assert (caffe.backbone.style, caffe.pixels.order, caffe.pixels.mean) == ("caffe", "bgr", (103.53, 116.28, 123.675))
    plain, notes = recognise(Source("retinanet_r50_fpn_1x_coco_20200130.pth", "mmdet", state))
    assert (plain.backbone.style, plain.pixels.order) == ("pytorch", "rgb")
    assert "--model" in notes[0]


TEXT = """/base/fcos.py
model = dict(
    type='FCOS',
    backbone=dict(type='ResNet', depth=18, style='caffe', init_cfg=dict(checkpoint=prefix + 'x')),
    bbox_head=dict(type='FCOSHead', norm_on_bbox=False, loss_bbox=dict(type='IoULoss', loss_weight=1.0)))
img_norm_cfg = dict(
    mean=[102.9801, 115.9465, 122.7717], std=[1.0, 1.0, 1.0], to_rgb=False)
lr = __import__('os').getcwd()
/child/fcos_improved.py
_base_ = 'fcos.py'
model = dict(bbox_head=dict(norm_on_bbox=True, centerness_on_reg=True,
    loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=1.0)), test_cfg=dict(nms=dict(iou_threshold=0.6)))
"""


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_the_text_is_parsed_and_not_run(tmp_path: Path, key: str) -> None:
    """With its base before it, as MMDetection 2 writes it."""
    torch.save({"meta": {key: TEXT}, "state_dict": tensors("fcos")}, tmp_path / "x.pth")
    model = prepare(tmp_path / "x.pth", "native").model
    assert (model.head.norm_on_bbox, model.head.centerness_on_reg, model.losses.giou) == (True, True, 1.0)
    assert (model.backbone.style, model.pixels.order, model.postprocess.nms_iou) == ("caffe", "bgr", 0.6)


@pytest.mark.parametrize(
    "text",
    ["", "model = dict(", "model = (" * 5000, "model = 1\n\x00", None, b"model = dict()", "=" * 9, "x" * 2_000_000],
)
def test_text_that_is_no_configuration_tells_nothing(text: Any) -> None:
    assert parse_config(text) == {}


def test_a_model_that_the_file_contradicts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = small.detector(7, detector="fcos", backbone=R18, **BIAS)
    torch.save(tensors("fcos", **BIAS), tmp_path / "x.pth")
    notes = prepare(tmp_path / "x.pth", "native", model=model.config).report.notes
    assert any("head.norm_on_bbox is False, but x.pth speaks for True" in note for note in notes)
    load_weights(model, tmp_path / "x.pth")
    assert "head.centerness_on_reg is False, but x.pth speaks for True" in caplog.text


def test_what_is_named_wrongly_in_the_configuration_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="--model"):
        told("gfl", with_head("gfl", norm_cfg={"num_groups": 7}))


def test_the_note_to_mmdetection_says_what_shapes_no_tensor(tmp_path: Path) -> None:
    torch.save(tensors("fcos", **BIAS), tmp_path / "x.pth")
    said = "\n".join(prepare(tmp_path / "x.pth", "mmdet").report.notes)
    for text in ("norm_on_bbox=True, centerness_on_reg=True, conv_bias=True", "style='caffe'", "num_groups=8"):
        assert text in said
