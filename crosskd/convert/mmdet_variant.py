"""What no tensor of an MMDetection file tells, told by the configuration beside the tensors or by the file's name.

Many detectors share their tensors' names and shapes and compute something else with them. Each of these is either
recognised here, or refused, or is in the note that says what was assumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from crosskd.convert import mmdet_regions
from crosskd.convert.mmdet_config import section
from crosskd.errors import WeightsError
from crosskd.spec import registry
from crosskd.spec.backbones.batch_norm import YOLOX_NORM
from crosskd.spec.model import PADDING, PYRAMID

# The heads that compute what ours do. LD's teaches another one, and is a GFL itself.
HEADS = {
    "GFLHead": "gfl", "LDHead": "gfl", "RetinaHead": "retinanet", "ATSSHead": "atss", "FCOSHead": "fcos",
    "RTMDetSepBNHead": "rtmdet", "YOLOXHead": "yolox",
}  # fmt: skip
STDS = {"retinanet": [1.0, 1.0, 1.0, 1.0], "atss": [0.1, 0.1, 0.2, 0.2]}  # of box deltas; the others have distances
CAFFE_PIXELS = {"order": "bgr", "mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0]}  # of FCOS
CAFFE_RETINANET = {"order": "bgr", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}
RTMDET_PIXELS = {"order": "bgr", "mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395], "padding": PADDING}
YOLOX_PIXELS = {"order": "bgr", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "padding": PADDING}
# FCOS with the changes that its authors published later: MMDetection's `...-center-normbbox-centeronreg-giou`.
IMPROVED_FCOS: dict[str, dict[str, Any]] = {
    "head": {"norm_on_bbox": True, "centerness_on_reg": True, "center_sampling": True, "center_radius": 1.5},
    "losses": {"iou": 0.0, "giou": 1.0},
}
# Words in the names of published files -> a detector that has the tensors of ours by name and shape.
_NAMESAKES = {
    ("atss", "paa"): "PAA, whose scores are roots and whose boxes are voted for",
    ("atss", "lad"): "LAD, whose scores are roots and whose boxes are voted for",
    ("retinanet", "freeanchor"): "FreeAnchor, whose box deltas are scaled",
    ("retinanet", "free"): "FreeAnchor, whose box deltas are scaled",
}


def assume_unsaid(values: dict[str, Any], file: str, resnet: bool) -> list[str]:
    """Without a configuration: the published variant that the tensors and the file's name speak for.

    `values` of a `ModelConfig` are changed in place; returned is in words what was assumed. Raises `WeightsError` for
    a name that speaks of a detector that is none of ours.
    """
    detector, words = values["detector"], set(re.split(r"[^a-z0-9]+", file.lower()))
    for (ours, word), what in _NAMESAKES.items():
        if detector == ours and word in words:
            raise _another(file, f"by its name it is {what}", detector)
    improved = detector == "fcos" and values["head"].get("conv_bias") is True
    caffe = resnet and (detector == "fcos" or "caffe" in words)
    if improved:
        _lay_over(values, IMPROVED_FCOS)
    if caffe:
        values["backbone"] |= {"style": "caffe", "norm_frozen": True}
        values["pixels"] = CAFFE_PIXELS if detector == "fcos" else CAFFE_RETINANET
    parts = []
    if detector == "faster_rcnn":
        _lay_over(values, {"regions": mmdet_regions.PUBLISHED, "postprocess": mmdet_regions.THRESHOLDS})
        parts.append("regions by aligned RoIAlign of as many points as a cell has pixels")
    if resnet:
        parts.append("ResNet in caffe style, BGR pixels" if caffe else "ResNet in PyTorch's style, RGB pixels")
    if detector == "fcos":
        parts.append(
            "the improved FCOS (norm_on_bbox, centerness_on_reg, center_sampling, GIoU), since its towers have a bias "
            "beside group norm"
            if improved
            else "boxes by exp and centerness from the class tower (norm_on_bbox and centerness_on_reg false)"
        )
    if detector == "rtmdet":
        values["pixels"] = RTMDET_PIXELS
        exp = values["backbone"]["name"] in registry.EXP_ON_REG
        how = "by exp, as m, l and x have them" if exp else "as they are, as tiny and s have them"
        parts.append(f"BGR pixels, distances {how}")
    if detector == "yolox":
        values["pixels"] = YOLOX_PIXELS
        parts.append("BGR pixels as they are")
    norms = {
        "fcos": "groups of norms",
        "rtmdet": "norms' eps",
        "yolox": "norms' eps",
        "faster_rcnn": "anchors, numbers of proposals",
    }.get(detector, "anchors, groups of norms")
    parts.append(f"{norms} and thresholds by default")
    return [
        f"assumed: {'; '.join(parts)}, as MMDetection publishes it. The file has no configuration, and no tensor tells "
        "these: if one is otherwise, name the model (--model)"
    ]


def read_config(values: dict[str, Any], config: dict[str, Any], file: str, resnet: bool) -> list[str]:
    """Change `values` of a `ModelConfig` in place to what the `config` beside the tensors says.

    Returns in words what was read. Raises `WeightsError`, with every reason, for a detector that is none of ours.
    """
    model, detector = section(config, "model"), values["detector"]
    of_regions = detector == "faster_rcnn"
    if reasons := list(mmdet_regions.reasons(model) if of_regions else _reasons(model, detector)):
        raise _another(file, "; ".join(reasons), detector)
    told: dict[str, dict[str, Any]] = {"backbone": {}, "neck": {}, "head": {}, "losses": {}, "postprocess": {}}
    if resnet:
        style = section(model, "backbone").get("style", "pytorch")
        told["backbone"]["style"] = style
        if section(model, "backbone", "norm_cfg").get("requires_grad") is False:
            told["backbone"]["norm_frozen"] = True
    if of_regions:
        _lay_over(values, {"regions": mmdet_regions.PUBLISHED, "postprocess": mmdet_regions.THRESHOLDS})
        test = section(config, "model", "test_cfg") or section(config, "test_cfg")
        told |= mmdet_regions.told(model, test)
        values |= told.pop("")
    else:
        _neck(model, told["neck"])
        _head(model, detector, told, values)
        told["postprocess"] = _postprocess(config)
    _lay_over(values, told)
    if pixels := _pixels(config):
        values["pixels"] = pixels | ({"padding": PADDING} if detector in registry.OWN_BACKBONES else {})
    elif detector == "yolox":  # its preprocessor has no normalisation to speak of
        pixels = values["pixels"] = YOLOX_PIXELS
    said = [
        f"{name}.{knob} {str(value).lower() if isinstance(value, bool) else value}"
        for name, knobs in told.items()
        for knob, value in knobs.items()
    ]
    said += [f"pixels {pixels['order']}"] if pixels else []
    return [f"read from the configuration in the file: {', '.join(said)}"]


def _another(file: str, why: str, detector: str) -> WeightsError:
    return WeightsError(
        f"{file} has the tensors of a {detector}, but is another detector: {why}",
        remedy=f"Convert a {detector}; if this is one all the same, name the model (--model).",
    )


def _lay_over(values: dict[str, Any], told: dict[str, dict[str, Any]]) -> None:
    for name, knobs in told.items():
        if knobs:
            values[name] = {**values.get(name, {}), **knobs}


def _reasons(model: dict[str, Any], detector: str) -> Iterator[str]:
    """Why it is none of ours. What the configuration leaves out is as ours."""
    backbone, neck, head = (section(model, name) for name in ("backbone", "neck", "bbox_head"))
    anchors, coder = section(head, "anchor_generator"), section(head, "bbox_coder")
    loss, wanted = section(head, "loss_cls"), [name for name, ours in HEADS.items() if ours == detector]
    upsampling = section(neck, "upsample_cfg").get("mode", "nearest")
    facts: list[tuple[str, Any, list[Any]]] = [
        ("bbox_head.type", head.get("type"), wanted),
        ("backbone.type", backbone.get("type"), ["ResNet", "SwinTransformer", "CSPNeXt", "CSPDarknet"]),
        ("backbone.strides", backbone.get("strides"), [[1, 2, 2, 2], [4, 2, 2, 2]]),
        ("backbone.dilations", backbone.get("dilations"), [[1, 1, 1, 1]]),
        ("neck.type", neck.get("type"), ["FPN", "CSPNeXtPAFPN", "YOLOXPAFPN"]),
        ("backbone.spp_kernal_sizes", backbone.get("spp_kernal_sizes"), [[5, 9, 13]]),
        ("backbone.arch", backbone.get("arch"), ["P5"]),
        ("backbone.expand_ratio", backbone.get("expand_ratio"), [0.5]),
        ("backbone.channel_attention", backbone.get("channel_attention"), [True]),
        ("neck.expand_ratio", neck.get("expand_ratio"), [0.5]),
        ("bbox_head.with_objectness", head.get("with_objectness"), [False]),
        ("bbox_head.share_conv", head.get("share_conv"), [True]),
        ("bbox_head.pred_kernel_size", head.get("pred_kernel_size"), [1]),
        ("neck.start_level", neck.get("start_level"), [1]),
        ("neck.add_extra_convs", neck.get("add_extra_convs"), [True, False, "on_input", "on_output"]),
        ("neck.upsample_cfg.mode", upsampling, ["nearest"]),
        ("anchor_generator.type", anchors.get("type"), ["AnchorGenerator", "MlvlPointGenerator"]),
        ("anchor_generator.offset", anchors.get("offset"), [0, 0.0]),
        ("anchor_generator.center_offset", anchors.get("center_offset"), [0, 0.0]),
        ("anchor_generator.scales", anchors.get("scales"), []),
        ("bbox_coder.target_means", coder.get("target_means"), [[0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0]]),
        ("loss_cls.use_sigmoid", loss.get("use_sigmoid"), [True]),
    ]
    if detector in STDS:
        facts.append(("bbox_coder.target_stds", coder.get("target_stds"), [STDS[detector]]))
    if detector == "yolox":
        for name in ("backbone", "neck", "bbox_head"):
            facts.append((f"{name}.norm_cfg.eps", section(model, name, "norm_cfg").get("eps"), [YOLOX_NORM.eps]))
            facts.append((f"{name}.act_cfg.type", section(model, name, "act_cfg").get("type"), ["Swish", "SiLU"]))
    for what, has, allowed in facts:
        if isinstance(has, str):
            has = has.rpartition(".")[2]  # `mmdet.FCOSHead`
        if has is not None and has not in allowed:
            yield f"{what} is {has!r:.80}" + (f", not {allowed[0]!r}" if allowed else "")
    strides = head.get("strides") or anchors.get("strides") or PYRAMID
    if strides != PYRAMID[: len(strides)]:
        yield f"its strides are {strides!r:.80}, not {PYRAMID}"


def _neck(model: dict[str, Any], told: dict[str, Any]) -> None:
    neck = section(model, "neck")
    extra = neck.get("add_extra_convs")
    if extra is True:
        extra = "on_input" if neck.get("extra_convs_on_inputs", True) else "on_output"
    if extra in ("on_input", "on_output"):
        told["p6_from"] = "c5" if extra == "on_input" else "p5"
        told["relu_before_p7"] = bool(neck.get("relu_before_extra_convs", False))


def _head(model: dict[str, Any], detector: str, told: dict[str, dict[str, Any]], values: dict[str, Any]) -> None:
    head = section(model, "bbox_head")
    anchors, groups = section(head, "anchor_generator"), section(head, "norm_cfg").get("num_groups")
    if groups is not None and values["head"].get("norm") == "group":
        told["head"]["norm_groups"] = groups
    if detector == "fcos":
        told["head"] |= {knob: head.get(knob) is True for knob in ("norm_on_bbox", "centerness_on_reg")}
        told["head"]["center_sampling"] = head.get("center_sampling") is True
        told["head"]["center_radius"] = head.get("center_sample_radius", 1.5)
    elif "octave_base_scale" in anchors:
        values["anchor_scale"] = anchors["octave_base_scale"]
    if detector == "rtmdet":
        told["head"]["exp_on_reg"] = head.get("exp_on_reg") is True
    if detector == "retinanet":
        told["head"] |= {
            ours: anchors[theirs]
            for ours, theirs in {"octaves": "scales_per_octave", "ratios": "ratios"}.items()
            if theirs in anchors
        }
    loss = section(head, "loss_bbox")
    names = {"IoULoss": "iou", "GIoULoss": "giou", "L1Loss": "l1"}
    if (name := names.get(loss.get("type", ""))) is not None and not (name == "l1" and detector != "retinanet"):
        zeros = {"gfl": ["giou"], "rtmdet": ["giou"], "retinanet": ["l1", "giou"], "yolox": ["iou"]}.get(
            detector, ["iou", "giou"]
        )
        told["losses"] = dict.fromkeys(zeros, 0.0) | {name: loss.get("loss_weight", 1.0)}
    if only := {"gfl": "giou", "rtmdet": "giou", "yolox": "iou"}.get(detector):
        told["losses"] = {key: value for key, value in told["losses"].items() if key == only}


def _postprocess(config: dict[str, Any]) -> dict[str, Any]:
    test = section(config, "model", "test_cfg") or section(config, "test_cfg")
    nms = section(test, "nms")
    found = {
        "score_threshold": test.get("score_thr"),
        "nms_iou": nms.get("iou_threshold", nms.get("iou_thr")) if nms.get("type", "nms") == "nms" else None,
        "pre_nms": test.get("nms_pre"),
        "max_detections": test.get("max_per_img"),
    }
    return {knob: value for knob, value in found.items() if isinstance(value, int | float)}


def _pixels(config: dict[str, Any]) -> dict[str, Any]:
    """From MMDetection 3's `data_preprocessor`, or 2's `img_norm_cfg`."""
    new = section(config, "model", "data_preprocessor") or section(config, "data_preprocessor")
    place = new or section(config, "img_norm_cfg")
    mean, std = place.get("mean"), place.get("std")
    if not all(isinstance(v, list) and len(v) == 3 and all(isinstance(n, int | float) for n in v) for v in (mean, std)):
        return {}
    rgb = place.get("bgr_to_rgb", False) if new else place.get("to_rgb", True)
    return {"order": "rgb" if rgb else "bgr", "mean": mean, "std": std}
