"""MMDetection's Faster R-CNN: its names and ours, and what of it no tensor tells.

The background is the last class in both, and box deltas lie class by class, so that no tensor changes. Files of
MMDetection 1, whose background was the first class, whose boxes had their last pixel in them and which wrote other
names, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from crosskd.convert.mmdet_config import section
from crosskd.convert.names import AFFINE, RESNET, Pairs
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.regions import STRIDES

PAIRS: Pairs = [
    *((rf"backbone\.{part}", rf"backbone\.{part}") for part in RESNET),
    (rf"neck\.inner_blocks\.([0-3])\.0\.{AFFINE}", rf"neck\.lateral_convs\.([0-3])\.conv\.{AFFINE}"),
    (rf"neck\.layer_blocks\.([0-3])\.0\.{AFFINE}", rf"neck\.fpn_convs\.([0-3])\.conv\.{AFFINE}"),
    (rf"head\.rpn\.conv\.0\.0\.{AFFINE}", rf"rpn_head\.rpn_conv\.{AFFINE}"),
    (rf"head\.rpn\.cls_logits\.{AFFINE}", rf"rpn_head\.rpn_cls\.{AFFINE}"),
    (rf"head\.rpn\.bbox_pred\.{AFFINE}", rf"rpn_head\.rpn_reg\.{AFFINE}"),
    (rf"head\.region\.fc6\.{AFFINE}", rf"roi_head\.bbox_head\.shared_fcs\.0\.{AFFINE}"),
    (rf"head\.region\.fc7\.{AFFINE}", rf"roi_head\.bbox_head\.shared_fcs\.1\.{AFFINE}"),
    (rf"head\.cls\.{AFFINE}", rf"roi_head\.bbox_head\.fc_cls\.{AFFINE}"),
    (rf"head\.box\.{AFFINE}", rf"roi_head\.bbox_head\.fc_reg\.{AFFINE}"),
]
# What it is built with, or cannot have otherwise; and what it has by default.
ALWAYS: dict[str, Any] = {"whole_pixel_anchors": False, "spread_cells": False}
PUBLISHED: dict[str, Any] = {
    **ALWAYS,
    "aligned": True,
    "sampling_ratio": 0,
    "box_beta": 0.0,
    "train_proposals": 1000,
}
THRESHOLDS = {"score_threshold": 0.05, "nms_iou": 0.5, "pre_nms": 1000, "max_detections": 100}
BEGINNINGS = ("roi_head.", "rpn_head.")
_STAGE = re.compile(r"roi_head\.bbox_head\.\d+\.")  # of a cascade
_OLD = ("bbox_head.fc_cls.", "bbox_head.shared_fcs.")  # MMDetection 1


def other_detector(names: list[str]) -> str:
    """Which other detector of two stages a file's names are of; empty where nothing speaks for one."""
    if any(name.startswith(_OLD) for name in names):
        return (
            "a Faster R-CNN of MMDetection 1, whose background is the first class and whose boxes are one pixel wider"
        )
    if any(_STAGE.match(name) for name in names):
        return "a Cascade R-CNN, whose regions go through several heads"
    if not any(name.startswith("roi_head.") for name in names):
        return "a proposal network alone, without a second stage"
    if not any(name.startswith("rpn_head.rpn_cls.") for name in names):
        return "a detector of another first stage than MMDetection's RPNHead"
    if not any(name.startswith("roi_head.bbox_head.shared_fcs.1.") for name in names):
        return "a detector of another second stage than MMDetection's Shared2FCBBoxHead"
    return ""


def reasons(model: dict[str, Any]) -> Iterator[str]:
    """Why what a configuration's `model` says is not what ours computes. What it leaves out is as ours."""
    backbone, neck, rpn, roi = (section(model, name) for name in ("backbone", "neck", "rpn_head", "roi_head"))
    extractor, head = section(roi, "bbox_roi_extractor"), section(roi, "bbox_head")
    anchors, layer = section(rpn, "anchor_generator"), section(extractor, "roi_layer")
    first, second = section(rpn, "bbox_coder"), section(head, "bbox_coder")
    nms = section(section(model, "test_cfg", "rcnn"), "nms")
    facts: list[tuple[str, Any, list[Any]]] = [
        ("backbone.type", backbone.get("type"), ["ResNet"]),
        ("backbone.strides", backbone.get("strides"), [[1, 2, 2, 2]]),
        ("backbone.dilations", backbone.get("dilations"), [[1, 1, 1, 1]]),
        ("neck.type", neck.get("type"), ["FPN"]),
        ("neck.start_level", neck.get("start_level"), [0]),
        ("neck.num_outs", neck.get("num_outs"), [5]),
        ("neck.add_extra_convs", neck.get("add_extra_convs"), [False]),
        ("neck.upsample_cfg.mode", section(neck, "upsample_cfg").get("mode"), ["nearest"]),
        ("rpn_head.type", rpn.get("type"), ["RPNHead"]),
        ("rpn_head.loss_cls.use_sigmoid", section(rpn, "loss_cls").get("use_sigmoid"), [True]),
        ("anchor_generator.type", anchors.get("type"), ["AnchorGenerator"]),
        ("anchor_generator.center_offset", anchors.get("center_offset"), [0, 0.0]),
        ("anchor_generator.ratios", anchors.get("ratios"), [[0.5, 1.0, 2.0]]),
        ("anchor_generator.strides", anchors.get("strides"), [STRIDES]),
        ("rpn_head.bbox_coder.type", first.get("type"), ["DeltaXYWHBBoxCoder"]),
        ("rpn_head.bbox_coder.target_stds", first.get("target_stds"), [[1.0, 1.0, 1.0, 1.0]]),
        ("roi_head.type", roi.get("type"), ["StandardRoIHead"]),
        ("bbox_roi_extractor.type", extractor.get("type"), ["SingleRoIExtractor"]),
        ("bbox_roi_extractor.finest_scale", extractor.get("finest_scale"), [56]),
        ("bbox_roi_extractor.featmap_strides", extractor.get("featmap_strides"), [STRIDES[:4]]),
        ("roi_layer.type", layer.get("type"), ["RoIAlign"]),
        ("roi_layer.output_size", layer.get("output_size"), [7, [7, 7]]),
        ("roi_layer.pool_mode", layer.get("pool_mode"), ["avg"]),
        ("bbox_head.type", head.get("type"), ["Shared2FCBBoxHead"]),
        ("bbox_head.reg_class_agnostic", head.get("reg_class_agnostic"), [False]),
        ("bbox_head.reg_decoded_bbox", head.get("reg_decoded_bbox"), [False]),
        ("bbox_head.loss_cls.use_sigmoid", section(head, "loss_cls").get("use_sigmoid"), [False]),
        ("bbox_head.bbox_coder.type", second.get("type"), ["DeltaXYWHBBoxCoder"]),
        ("test_cfg.rcnn.nms.type", nms.get("type"), ["nms"]),
    ]
    for name, coder in (("rpn_head", first), ("bbox_head", second)):
        facts.append((f"{name}.bbox_coder.target_means", coder.get("target_means"), [[0.0, 0.0, 0.0, 0.0]]))
        facts.append((f"{name}.bbox_coder.add_ctr_clamp", coder.get("add_ctr_clamp"), [False]))
    for what, has, allowed in facts:
        if isinstance(has, str):
            has = has.rpartition(".")[2]  # `mmdet.RPNHead`
        if has is not None and has not in allowed:
            yield f"{what} is {has!r:.80}, not {allowed[0]!r}"
    scales = anchors.get("scales")
    if scales is not None and not (isinstance(scales, list) and len(scales) == 1):
        yield f"anchor_generator.scales is {scales!r:.80}, not one size"


def told(model: dict[str, Any], test: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections that a configuration's `model`, and `test`, its settings for testing, say; `""`: no section."""
    extractor, head = section(model, "roi_head", "bbox_roi_extractor"), section(model, "roi_head", "bbox_head")
    layer, loss = section(extractor, "roi_layer"), section(head, "loss_bbox")
    rpn, rcnn, train = section(test, "rpn"), section(test, "rcnn"), section(model, "train_cfg")
    proposal = section(train, "rpn_proposal")
    regions = {
        "aligned": layer.get("aligned", True),
        "sampling_ratio": layer.get("sampling_ratio", 0),
        "box_stds": section(head, "bbox_coder").get("target_stds"),
        "box_beta": loss.get("beta", 1.0) if loss.get("type") == "SmoothL1Loss" else 0.0,
        "rpn_nms_iou": _threshold(rpn),
        "proposals": rpn.get("max_per_img", rpn.get("nms_post")),
        "train_pre_nms": proposal.get("nms_pre"),
        "train_proposals": proposal.get("max_per_img", proposal.get("nms_post")),
        "rpn_samples": section(train, "rpn", "sampler").get("num"),
        "rpn_positives": section(train, "rpn", "sampler").get("pos_fraction"),
        "samples": section(train, "rcnn", "sampler").get("num"),
        "positives": section(train, "rcnn", "sampler").get("pos_fraction"),
    }
    postprocess = {
        "score_threshold": rcnn.get("score_thr"),
        "nms_iou": _threshold(rcnn),
        "pre_nms": rpn.get("nms_pre"),
        "max_detections": rcnn.get("max_per_img"),
    }
    scales = section(model, "rpn_head", "anchor_generator").get("scales")
    top = {"anchor_scale": scales[0]} if isinstance(scales, list) and scales else {}
    return {"": top, "regions": _said(regions), "postprocess": _said(postprocess)}


def _threshold(test: dict[str, Any]) -> Any:
    nms = section(test, "nms")
    return nms.get("iou_threshold", nms.get("iou_thr", test.get("nms_thr")))


def _said(knobs: dict[str, Any]) -> dict[str, Any]:
    return {knob: value for knob, value in knobs.items() if isinstance(value, int | float | list)}


def incompatibilities(model: ModelConfig) -> list[str]:
    """Why MMDetection cannot be such a detector; empty where it can."""
    assert model.regions is not None
    backbone, regions = model.backbone, model.regions
    faults = {
        f"its names for a Faster R-CNN with a {backbone.name} backbone are not known; those with ResNets are": (
            registry.BACKBONES[backbone.name].family != "resnet"
        ),
        "its Faster R-CNN is of the first version, and regions.version is v2": regions.version != "v1",
        "its anchors are not rounded, and regions.whole_pixel_anchors is true": regions.whole_pixel_anchors,
        "its anchors lie a stride apart, and regions.spread_cells is true": regions.spread_cells,
    }
    return [why for why, holds in faults.items() if holds]


def knobs(model: ModelConfig) -> str:
    """How to say in its configuration what of a `model` is in no tensor, in words."""
    assert model.regions is not None
    regions, post = model.regions, model.postprocess
    return (
        f"type='FasterRCNN', backbone style='{model.backbone.style}'; "
        f"anchor_generator scales=[{model.anchor_scale:g}]; "
        f"roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio={regions.sampling_ratio}, "
        f"aligned={regions.aligned}); bbox_head bbox_coder target_stds={list(regions.box_stds)}; "
        f"test_cfg rpn=dict(nms_pre={post.pre_nms}, max_per_img={regions.proposals}, "
        f"nms=dict(iou_threshold={regions.rpn_nms_iou:g})); "
    )
