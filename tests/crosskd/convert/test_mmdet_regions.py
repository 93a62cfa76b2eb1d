"""MMDetection's Faster R-CNN: every tensor has its place, and it detects what its own formulas say."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import resnet18
from torchvision.ops import batched_nms, roi_align

from crosskd.convert.convert import prepare
from crosskd.convert.load import load_weights
from crosskd.convert.recognise import recognise
from crosskd.convert.source import Source, read_source
from crosskd.detectors.detector import build_detector
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec.config import ModelConfig

CLASSES = ["a", "b", "c", "d"]
SIZE = (96, 128)
STRIDES = [4, 8, 16, 32, 64]
BODY = {
    "backbone.body.": "backbone.",
    "backbone.fpn.inner_blocks.": "neck.lateral_convs.",
    "backbone.fpn.layer_blocks.": "neck.fpn_convs.",
}
CAFFE = ("style='pytorch'", "style='caffe'"), ("bgr_to_rgb=True", "bgr_to_rgb=False")
CONFIG = """
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(type='ResNet', depth=18, style='pytorch', norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=256, num_outs=5),
    rpn_head=dict(type='RPNHead', anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0],
        strides=[4, 8, 16, 32, 64]), bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0, 1.0, 1.0, 1.0])),
    roi_head=dict(type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor', featmap_strides=[4, 8, 16, 32],
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(type='Shared2FCBBoxHead', reg_class_agnostic=False,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0))),
    train_cfg=dict(rpn_proposal=dict(nms_pre=2000, max_per_img=1000)),
    test_cfg=dict(rpn=dict(nms_pre=60, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)))
"""


def theirs(seed: int = 0) -> dict[str, Tensor]:
    """A ResNet-18's state dict as MMDetection would write it, far enough from its start to say different things."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, tensor in _resnet_fpn_extractor(resnet18(), 5).state_dict().items():
        name = f"backbone.{name}"
        for ours, mine in BODY.items():
            if name.startswith(ours):
                name = mine + name.removeprefix(ours)
        in_neck = name.startswith("neck.")
        state[re.sub(r"\.0\.(weight|bias)$", r".conv.\1", name) if in_neck else name] = tensor
    layers = {
        "rpn_head.rpn_conv": ((256, 256, 3, 3), 1.0),
        "rpn_head.rpn_cls": ((3, 256, 1, 1), 2.0),
        "rpn_head.rpn_reg": ((12, 256, 1, 1), 0.3),
        "roi_head.bbox_head.shared_fcs.0": ((64, 256 * 49), 1.0),
        "roi_head.bbox_head.shared_fcs.1": ((64, 64), 1.0),
        "roi_head.bbox_head.fc_cls": ((len(CLASSES) + 1, 64), 3.0),
        "roi_head.bbox_head.fc_reg": ((4 * len(CLASSES), 64), 1.0),
    }
    for name, (shape, gain) in layers.items():
        state[f"{name}.weight"] = torch.randn(shape) * gain * (2 / math.prod(shape[1:])) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0])
    return state


def saved(state: dict[str, Tensor], folder: Path, config: str | None = CONFIG, name: str = "theirs.pth") -> Path:
    meta = {"cfg": config, "dataset_meta": {"classes": tuple(CLASSES)}}
    torch.save({"state_dict": state, "meta": meta if config else {}}, folder / name)
    return folder / name


def decoded(boxes: Tensor, deltas: Tensor, stds: list[float]) -> Tensor:
    """DeltaXYWHBBoxCoder, clipped to the image."""
    dx, dy, dw, dh = (deltas * deltas.new_tensor(stds)).unbind(-1)
    limit = abs(math.log(16 / 1000))
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    x, y = (boxes[..., 0] + boxes[..., 2]) * 0.5 + width * dx, (boxes[..., 1] + boxes[..., 3]) * 0.5 + height * dy
    w, h = width * dw.clamp(-limit, limit).exp(), height * dh.clamp(-limit, limit).exp()
    corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)
    return torch.minimum(corners.clamp(min=0), corners.new_tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]]))


def anchors(height: int, width: int, stride: int) -> Tensor:
    """AnchorGenerator's of scale 8: not rounded, centred on each cell's corner, a stride apart."""
    root = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).sqrt()
    half = 8 * stride / root / 2, 8 * stride * root / 2
    base = torch.stack((-half[0], -half[1], half[0], half[1]), 1)
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    return (torch.stack((x, y, x, y), -1).view(-1, 1, 4) + base).view(-1, 4)


@torch.no_grad()
def their_detections(state: dict[str, Tensor], images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What MMDetection's RPNHead, SingleRoIExtractor, Shared2FCBBoxHead and test_cfg make of it, written out anew."""
    torch.manual_seed(0)
    network = _resnet_fpn_extractor(resnet18(), 5).double().eval()
    by_theirs = {mine: ours for ours, mine in BODY.items()}
    named = {
        by + name.removeprefix(mine).replace(".conv.", ".0."): tensor
        for name, tensor in state.items()
        for mine, by in by_theirs.items()
        if name.startswith(mine)
    }
    network.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in named.items()})
    maps = list(network(images).values())
    state = {name: tensor.double() for name, tensor in state.items()}

    def layer(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    found = []
    for image in range(len(images)):
        boxes, scores, levels = [], [], []
        for level, stride in enumerate(STRIDES):
            x = F.relu(F.conv2d(maps[level][image : image + 1], *layer("rpn_head.rpn_conv"), padding=1))
            logits = F.conv2d(x, *layer("rpn_head.rpn_cls"))[0].permute(1, 2, 0).reshape(-1)
            deltas = F.conv2d(x, *layer("rpn_head.rpn_reg"))[0].permute(1, 2, 0).reshape(-1, 4)
            best = logits.sigmoid().sort(descending=True).indices[:60]
            boxes.append(decoded(anchors(*maps[level].shape[-2:], stride)[best], deltas[best], [1.0] * 4))
            scores.append(logits[best].sigmoid())
            levels.append(torch.full((len(best),), level))
        whole, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        there = (whole[:, 2] > whole[:, 0]) & (whole[:, 3] > whole[:, 1])
        whole, score, level_of = whole[there], score[there], level_of[there]
        regions = whole[batched_nms(whole, score, level_of, 0.7)[:50]]
        side = ((regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])).sqrt()
        place = (side / 56 + 1e-6).log2().floor().clamp(0, 3).long()
        pooled = torch.stack(
            [
                roi_align(maps[p][image : image + 1], [r[None]], 7, 1 / STRIDES[p], sampling_ratio=0, aligned=True)[0]
                for r, p in zip(regions, place.tolist(), strict=True)
            ]
        )
        x = pooled.flatten(1)
        for number in (0, 1):
            x = F.relu(F.linear(x, *layer(f"roi_head.bbox_head.shared_fcs.{number}")))
        probability = F.linear(x, *layer("roi_head.bbox_head.fc_cls")).softmax(-1)[:, : len(CLASSES)]
        deltas = F.linear(x, *layer("roi_head.bbox_head.fc_reg")).view(-1, len(CLASSES), 4)
        every = decoded(regions[:, None].expand(-1, len(CLASSES), 4), deltas, [0.1, 0.1, 0.2, 0.2])
        row, label = (probability > 0.05).nonzero(as_tuple=True)
        kept = batched_nms(every[row, label], probability[row, label], label, 0.5)[:100]
        found.append((every[row, label][kept], probability[row, label][kept], label[kept]))
    return found


def test_it_detects_what_mmdetection_does_and_comes_back(tmp_path: Path) -> None:
    state = theirs()
    path = saved(state, tmp_path)
    conversion = prepare(path, "native")
    report = conversion.report
    assert (report.missing, report.unexpected, report.left_out, report.added) == ([], [], [], [])
    assert (report.matched.keys(), report.classes, conversion.classes) == (state.keys(), 4, CLASSES)
    assert conversion.model.regions is not None
    assert (conversion.model.regions.aligned, conversion.model.regions.proposals) == (True, 50)
    ours = build_detector(conversion.model, len(CLASSES), pretrained=False)
    load_weights(ours, path)
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    for found, (boxes, scores, labels) in zip(
        ours.double().eval().detect(images, [SIZE, SIZE]), their_detections(state, images), strict=True
    ):
        assert len(scores) >= 20
        assert labels.unique().numel() > 1
        assert torch.equal(found.labels, labels)
        torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-8)
        torch.testing.assert_close(found.boxes, boxes, rtol=0, atol=1e-6)
    conversion.write(tmp_path / "ours.safetensors")
    back = prepare(tmp_path / "ours.safetensors", "mmdet")
    assert "aligned=True" in " ".join(back.report.notes)
    back.write(tmp_path / "back.pth")
    again = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("config", "name", "style", "order"),
    [
        (None, "faster_rcnn_r18_fpn_1x_coco.pth", "pytorch", "rgb"),
        (None, "faster_rcnn_r18_caffe_fpn_1x_coco.pth", "caffe", "bgr"),
        (CONFIG.replace(*CAFFE[0]).replace(*CAFFE[1]), "x.pth", "caffe", "bgr"),
    ],
)
def test_what_no_tensor_tells(config: str | None, name: str, style: str, order: str, tmp_path: Path) -> None:
    model, notes = recognise(read_source(saved(theirs(), tmp_path, config, name)))
    assert (model.backbone.style, model.pixels.order) == (style, order)
    regions = model.regions
    assert regions is not None
    knobs = (regions.aligned, regions.sampling_ratio, regions.box_beta, regions.train_proposals)
    assert knobs == (True, 0, 0.0, 1000)
    assert (regions.whole_pixel_anchors, regions.spread_cells) == (False, False)
    assert (model.postprocess.nms_iou, model.postprocess.score_threshold) == (0.5, 0.05)
    assert ("read from the configuration" in notes[0]) == (config is not None)


def test_the_variants_that_a_configuration_may_name_are_read(tmp_path: Path) -> None:
    text = CONFIG.replace("sampling_ratio=0", "sampling_ratio=2, aligned=False").replace("scales=[8]", "scales=[4]")
    text = text.replace("[0.1, 0.1, 0.2, 0.2]", "[0.05, 0.05, 0.1, 0.1]").replace("0.7", "0.6")
    text = text.replace("type='L1Loss'", "type='SmoothL1Loss', beta=0.5")
    model, _ = recognise(read_source(saved(theirs(), tmp_path, text)))
    regions = model.regions
    assert regions is not None
    assert (regions.aligned, regions.sampling_ratio, regions.rpn_nms_iou, regions.box_beta) == (False, 2, 0.6, 0.5)
    assert (list(regions.box_stds), model.anchor_scale) == ([0.05, 0.05, 0.1, 0.1], 4)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("'AnchorGenerator'", "'LegacyAnchorGenerator'", "anchor_generator.type is 'LegacyAnchorGenerator'"),
        ("'DeltaXYWHBBoxCoder'", "'LegacyDeltaXYWHBBoxCoder'", "bbox_coder.type is 'LegacyDeltaXYWHBBoxCoder'"),
        ("'StandardRoIHead'", "'CascadeRoIHead'", "roi_head.type is 'CascadeRoIHead'"),
        ("'Shared2FCBBoxHead'", "'SABLHead'", "bbox_head.type is 'SABLHead'"),
        ("scales=[8]", "scales=[2, 4, 8]", "not one size"),
        ("type='nms', iou_threshold=0.5", "type='soft_nms', iou_threshold=0.5", "rcnn.nms.type is 'soft_nms'"),
    ],
)
def test_another_detector_with_the_same_tensors_is_refused_in_words(
    old: str, new: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="is another detector") as refused:
        recognise(read_source(saved(theirs(), tmp_path, CONFIG.replace(old, new))))
    assert why in refused.value.message


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["roi_head.bbox_head.0.fc_cls.weight", "rpn_head.rpn_cls.weight"], "a Cascade R-CNN"),
        (["rpn_head.rpn_cls.weight"], "a proposal network alone"),
        (["bbox_head.fc_cls.weight", "rpn_head.rpn_cls.weight"], "MMDetection 1"),
        (["roi_head.bbox_head.shared_fcs.1.weight"], "another first stage"),
        (["rpn_head.rpn_cls.weight", "roi_head.bbox_head.shared_convs.0.conv.weight"], "another second stage"),
    ],
)
def test_another_architecture_is_called_by_its_name(names: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        recognise(Source("x.pth", "mmdet", {name: torch.zeros(1) for name in names}))
    assert "torchvision's" in refused.value.remedy


def test_one_with_masks_leaves_them_out_when_told_to(tmp_path: Path) -> None:
    state = theirs() | {"roi_head.mask_head.conv_logits.weight": torch.zeros(1)}
    conversion = prepare(saved(state, tmp_path), "native")
    assert conversion.report.unexpected == ["roi_head.mask_head.conv_logits.weight"]
    with pytest.raises(WeightsError, match="1 unexpected"):
        conversion.write(tmp_path / "x.safetensors")
    conversion.write(tmp_path / "x.safetensors", drop_unexpected=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": "v2"}, "of the first version"),
        ({"whole_pixel_anchors": True}, "not rounded"),
        ({"spread_cells": True}, "a stride apart"),
    ],
)
def test_what_is_not_there_is_not_written_nor_taken_for_it(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = saved(theirs(), tmp_path)
    values = recognise(read_source(path))[0].model_dump()
    model = ModelConfig.model_validate({**values, "regions": {**values["regions"], **change}})
    with torch.device("meta"):
        detector = build_detector(model, len(CLASSES), pretrained=False)
    with pytest.raises(WeightsError, match=why):
        load_weights(detector, path)
