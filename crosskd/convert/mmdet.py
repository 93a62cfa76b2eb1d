"""MMDetection: its parameter names and ours, one to one, and what of ours it has no form for."""

from __future__ import annotations

import re

from torch import Tensor

from crosskd.convert import mmdet_regions, swin
from crosskd.convert.names import AFFINE, OURS, RESNET, THEIRS, Pairs, translate
from crosskd.errors import WeightsError
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig

_BODY: Pairs = [
    *((rf"backbone\.{part}", rf"backbone\.{part}") for part in RESNET),
    *swin.PAIRS,
    (rf"neck\.lateral\.(\d+)\.{AFFINE}", rf"neck\.lateral_convs\.(\d+)\.conv\.{AFFINE}"),
    (rf"neck\.output\.(\d+)\.{AFFINE}", rf"neck\.fpn_convs\.(\d+)\.conv\.{AFFINE}"),
    # CSPNeXt, CSPDarknet and their necks, whose attributes are named as theirs.
    (r"backbone\.(stem\..+)", r"backbone\.(stem\..+)"),
    (r"backbone\.(stage[1-4]\..+)", r"backbone\.(stage[1-4]\..+)"),
    *(
        (rf"neck\.({part}\..+)", rf"neck\.({part}\..+)")
        for part in ("reduce_layers", "top_down_blocks", "downsamples", "bottom_up_blocks", "out_convs")
    ),
]
_SHARED_HEAD: Pairs = [
    (rf"head\.cls_tower\.(\d+)\.conv\.{AFFINE}", rf"bbox_head\.cls_convs\.(\d+)\.conv\.{AFFINE}"),
    (rf"head\.cls_tower\.(\d+)\.norm\.{AFFINE}", rf"bbox_head\.cls_convs\.(\d+)\.gn\.{AFFINE}"),
    (rf"head\.box_tower\.(\d+)\.conv\.{AFFINE}", rf"bbox_head\.reg_convs\.(\d+)\.conv\.{AFFINE}"),
    (rf"head\.box_tower\.(\d+)\.norm\.{AFFINE}", rf"bbox_head\.reg_convs\.(\d+)\.gn\.{AFFINE}"),
    (r"head\.scales\.(\d+)", r"bbox_head\.scales\.(\d+)\.scale"),
    (r"head\.bins", r"bbox_head\.integral\.project"),
]
# What the prediction layers begin with.
LAYERS = {
    "gfl": "gfl",
    "retinanet": "retina",
    "atss": "atss",
    "fcos": "conv",
    "rtmdet": "rtm",
    "yolox": "multi_level_conv",
}
LEVELS = 5  # at most, of a pyramid
CONVS = 16  # at most, of a tower


def _by_level() -> Pairs:
    """RTMDet's head, in which they name each level's layers, and the towers' convolutions once for each level."""
    pairs: list[tuple[str, str]] = []
    for level in range(LEVELS):
        for ours, theirs in (("cls", "cls"), ("box", "reg")):
            pairs.append((rf"head\.{ours}\.{level}\.{AFFINE}", rf"bbox_head\.rtm_{theirs}\.{level}\.{AFFINE}"))
            for i in range(CONVS):
                tower, convs = rf"head\.{ours}_tower\.{i}", rf"bbox_head\.{theirs}_convs\.{level}\.{i}"
                pairs.append((rf"{tower}\.conv\.{AFFINE}", rf"{convs}\.conv\.{AFFINE}"))
                pairs.append((rf"{tower}\.norm\.{level}\.(\w+)", rf"{convs}\.bn\.(\w+)"))
    return pairs


def _levels_own() -> Pairs:
    """YOLOX's head, in which all is each level's own; nano's convolutions come in two steps."""
    pairs: list[tuple[str, str]] = [
        (rf"head\.{ours}\.(\d+)\.{AFFINE}", rf"bbox_head\.multi_level_conv_{theirs}\.(\d+)\.{AFFINE}")
        for ours, theirs in (("cls", "cls"), ("box", "reg"), ("objectness", "obj"))
    ]
    for level in range(LEVELS):
        for ours, theirs in (("cls", "cls"), ("box", "reg")):
            tower, convs = rf"head\.{ours}_tower\.(\d+)", rf"bbox_head\.multi_level_{theirs}_convs\.{level}\.(\d+)"
            conv = rf"{tower}\.conv\.{level}"
            pairs += [
                (rf"{conv}\.{AFFINE}", rf"{convs}\.conv\.{AFFINE}"),
                (rf"{tower}\.norm\.{level}\.(\w+)", rf"{convs}\.bn\.(\w+)"),
                (rf"{conv}\.(\w+)wise\.{AFFINE}", rf"{convs}\.(\w+)wise_conv\.conv\.{AFFINE}"),
                (rf"{conv}\.(\w+)wise_norm\.(\w+)", rf"{convs}\.(\w+)wise_conv\.bn\.(\w+)"),
            ]
    return pairs


PAIRS: dict[str, Pairs] = {
    **{
        detector: [
            *_BODY,
            *_SHARED_HEAD,
            (rf"head\.cls\.{AFFINE}", rf"bbox_head\.{prefix}_cls\.{AFFINE}"),
            (rf"head\.box\.{AFFINE}", rf"bbox_head\.{prefix}_reg\.{AFFINE}"),
            (rf"head\.centerness\.{AFFINE}", rf"bbox_head\.{prefix}_centerness\.{AFFINE}"),
        ]
        for detector, prefix in LAYERS.items()
    },
    "rtmdet": [*_BODY, *_by_level()],
    "yolox": [*_BODY, *_levels_own()],
    "faster_rcnn": mmdet_regions.PAIRS,
}
_SHARED = re.compile(r"(bbox_head\.(?:cls|reg)_convs\.)0(\.\d+\.conv\..+)")


def to_mmdet(name: str, detector: str) -> str:
    """Our name -> MMDetection's, in a model of `detector`. Raises `WeightsError` for a name that we do not have."""
    if (found := translate(name, PAIRS.get(detector, []), OURS)) is None:
        raise _unknown_name(name, "this project's", detector)
    return found


def further_names(name: str, model: ModelConfig) -> list[str]:
    """The names that MMDetection gives the same tensor besides its `name`: a shared convolution has one a level."""
    if model.detector != "rtmdet" or not (match := _SHARED.fullmatch(name)):
        return []
    return [f"{match[1]}{level}{match[2]}" for level in range(1, len(model.strides))]


def from_mmdet(name: str, detector: str) -> str:
    """MMDetection's name -> ours. Raises `WeightsError` for a name that such a detector does not have."""
    if (found := translate(name, PAIRS.get(detector, []), THEIRS)) is None:
        raise _unknown_name(name, "MMDetection's", detector)
    return found


def _unknown_name(name: str, whose: str, detector: str) -> WeightsError:
    return WeightsError(
        f"{name!r} is not one of {whose} names for a {detector} detector",
        remedy=f"Use weights of a {detector} model, or name the detector that they are of.",
    )


def tensor_to_mmdet(name: str, tensor: Tensor, model: ModelConfig) -> Tensor:
    """Our tensor `name` as MMDetection's."""
    return swin.to_mmdet(name, tensor) if _is_swin(model) else tensor


def tensor_from_mmdet(name: str, tensor: Tensor, model: ModelConfig) -> Tensor:
    """MMDetection's tensor of our `name` as ours."""
    return swin.from_mmdet(name, tensor) if _is_swin(model) else tensor


def _is_swin(model: ModelConfig) -> bool:
    return registry.BACKBONES[model.backbone.name].family == "swin"


def incompatibilities(model: ModelConfig) -> list[str]:
    """Why MMDetection cannot be such a detector; empty where it can."""
    if model.two_stage:
        return mmdet_regions.incompatibilities(model)
    if model.family == "detr":
        return ["its DETRs have other parts than those of transformers"]
    head, entry = model.head, registry.BACKBONES[model.backbone.name]
    implied = head.norm == "none"  # a bias where there is no norm; only FCOS's towers let it be chosen
    faults = {
        f"its names for a {model.backbone.name} backbone are not known; those for ResNets, Swin, CSPNeXt and "
        "CSPDarknet are": entry.family not in ("resnet", "swin", "cspnext", "cspdarknet"),
        "its RetinaNet's anchors are not rounded, and head.whole_pixel_anchors is true": head.whole_pixel_anchors,
        "its points and anchors lie a stride apart, and head.spread_cells is true": head.spread_cells,
        f"its FCOS's points lie at 0.5 of a cell, and head.point_offset is {head.point_offset:g}": (
            head.point_offset != 0.5
        ),
        "its scores are products, and postprocess.score is root": model.postprocess.score == "root",
        f"its {model.detector} heads have a bias exactly where they have no norm, which head.conv_bias changes": (
            model.detector != "fcos" and head.tower_bias != implied
        ),
    }
    return [why for why, holds in faults.items() if holds]
