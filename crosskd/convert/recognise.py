"""Which detector a file holds that does not say it: told by its tensors, as far as they tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from crosskd.convert import megvii, mmdet, mmdet_regions, mmdet_variant, torchvision
from crosskd.convert.formats import our_name
from crosskd.convert.source import Source
from crosskd.convert.torchvision_regions import MOBILENET, ON_MOBILENET, SMALL_DIGEST, SMALL_IMAGES
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.regions import COARSEST
from crosskd.spec.weights.torchvision_names import INSTEAD, READ, torchvision_detector

ANCHORS = 9  # of a RetinaNet's cell: three sizes of three ratios
# They begin the sha256, and end the name, of what torchvision loads with `eps` 0: its RetinaNet and its Faster R-CNN.
EPS_FREE, EPS_FREE_REGIONS = "eeacb38b", "258fb6c6"
_PROPER = {"retinanet": "RetinaNet", "faster_rcnn": "Faster R-CNN"}

# Knobs of which a bare state dict of ours says nothing.
_SHAPELESS = (
    "backbone.style and norm_eps, neck.relu_before_p7, the head's anchors, norm_groups and knobs of its detector, "
    "pixels, postprocess. If one is otherwise, name the model (--model)"
)
# Knobs that change what a detector computes from the same tensors.
_DECISIVE = (
    "detector", "backbone.style", "neck.p6_from", "neck.relu_before_p7", "head.norm_groups", "head.octaves",
    "head.ratios", "head.norm_on_bbox", "head.centerness_on_reg", "head.exp_on_reg", "pixels", "anchor_scale",
)  # fmt: skip
_DECISIVE_OF_REGIONS = (
    "detector", "backbone.style", "pixels", "anchor_scale",
    "regions.aligned", "regions.sampling_ratio", "regions.box_stds",
)  # fmt: skip
# How torchvision's builders set up what is no tensor.
_TORCHVISION: Mapping[str, Mapping[str, Any]] = {
    "retinanet": {"postprocess": {"score_threshold": 0.05, "nms_iou": 0.5, "pre_nms": 1000, "max_detections": 300}},
    "faster_rcnn": {"postprocess": {"score_threshold": 0.05, "nms_iou": 0.5, "pre_nms": 1000, "max_detections": 100}},
    "fcos": {
        "head": {"center_sampling": True, "center_radius": 1.5},
        "losses": {"iou": 0.0, "giou": 1.0},
        "postprocess": {"score_threshold": 0.2, "nms_iou": 0.6, "pre_nms": 1000, "max_detections": 100},
    },
}


def recognise(source: Source, digest: str = "") -> tuple[ModelConfig, list[str]]:
    """The model that a file of another project, or a bare state dict of ours, seems to hold, and what was assumed.

    `digest` is the file's sha256: one published file needs another `norm_eps` than its tensors tell. Raises
    `ConfigError` where the tensors do not say enough.
    """
    try:
        detector = _detector(source)
        state = {
            ours: tensor
            for name, tensor in source.tensors.items()
            if (ours := our_name(name, source.format, detector)) is not None
        }
        values = _values_from_shapes(state, detector)
    except IndexError as error:
        raise _unclear(source, "a tensor has too few dimensions") from error
    except LookupError as error:
        raise _unclear(source, f"there is no {error.args[0]!r}") from error
    notes = _assume(values, source, state, digest)
    try:
        return ModelConfig.model_validate(values), notes
    except ValidationError as error:
        reasons = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise _unclear(source, reasons) from error


def differences(source: Source, model: ModelConfig) -> list[str]:
    """What the file `source` says, beside its tensors, otherwise than the `model` that somebody named for it.

    Such a model may be meant, and its tensors fit, but it computes something else with them.
    """
    improved = model.detector == "fcos" and model.head.norm == "group" and model.head.tower_bias
    if source.format != "mmdet" or not (source.config or improved or model.two_stage):
        return []
    try:
        told, _ = recognise(source)
    except (ConfigError, WeightsError) as error:
        return [error.message] if source.config else []
    if told.two_stage != model.two_stage:
        return [f"the model is a {model.detector}, but {source.name} holds a {told.detector}"]
    knobs: tuple[str, ...] = _DECISIVE if source.config else ("head.norm_on_bbox", "head.centerness_on_reg")
    if model.two_stage:
        knobs = _DECISIVE_OF_REGIONS
    return [
        f"{knob} is {_knob(model, knob)}, but {source.name} speaks for {_knob(told, knob)}"
        for knob in knobs
        if _knob(model, knob) != _knob(told, knob)
    ]


def _knob(model: ModelConfig, path: str) -> Any:
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name)
    return value


# Of a DETR, one bias of each class.
COUNTED = {"rt_detr": "head.model.decoder.class_embed.0.bias"} | dict.fromkeys(
    ("deformable_detr", "rt_detr_v2", "d_fine"), "head.class_embed.0.bias"
)
COUNTED |= dict.fromkeys(("lw_detr", "rf_detr"), "head.class_embed.bias")


def class_count(state: Mapping[str, Tensor], model: ModelConfig) -> int:
    """How many classes the tensors of a `model`, by our names, are made for; at least one."""
    if model.family == "detr":
        return max(1, state[COUNTED[model.detector]].numel()) if COUNTED[model.detector] in state else 1
    bias = state.get("head.cls.bias", state.get("head.cls.0.bias"))
    if bias is not None and model.two_stage:
        return max(1, bias.numel() - 1)  # the background is one more
    return max(1, bias.numel() // model.anchors_per_cell) if bias is not None else 1


def _unclear(source: Source, why: str) -> ConfigError:
    return ConfigError(
        f"{source.name} does not say which model it holds, and its tensors do not tell: {why}",
        remedy="Name the model: --model FILE.yaml, with what `teacher.model` would have in a recipe.",
    )


def _detector(source: Source) -> str:
    names = source.tensors
    if any(name.startswith(("roi_heads.", "head.rpn.")) for name in names):
        known = {"backbone.body.conv1.weight", "backbone.body.0.0.weight"}
        if source.format == "torchvision" and names.keys().isdisjoint(known):
            raise _another_backbone(source)
        return "faster_rcnn"
    if source.format == "torchvision":
        held = torchvision_detector(names)
        assert held is not None
        if held.other:
            raise ConfigError(f"{source.name} is {held.other}; {READ}", remedy=INSTEAD)
        return held.detector
    if source.format == "megvii":
        return megvii.DETECTOR
    if source.format == "mmdet":
        if any(name.startswith(mmdet_regions.BEGINNINGS) for name in names):
            if other := mmdet_regions.other_detector(list(names)):
                raise ConfigError(
                    f"{source.name} is {other}; of MMDetection's detectors of two stages Faster R-CNN alone is read",
                    remedy="Use a Faster R-CNN of MMDetection 2 or 3, or torchvision's, or a dense detector.",
                )
            return "faster_rcnn"
        for detector, prefix in mmdet.LAYERS.items():
            if not names.keys().isdisjoint((f"bbox_head.{prefix}_cls.weight", f"bbox_head.{prefix}_cls.0.weight")):
                return detector
        raise LookupError("bbox_head.*_cls.weight")
    if any(name.startswith("head.model.decoder.") for name in names):
        raise _unclear(source, "DETRs of several types have the same names")
    if "head.bins" in names:
        return "gfl"
    if "head.objectness.0.weight" in names:
        return "yolox"
    if "head.cls.0.weight" in names:
        return "rtmdet"
    if "head.centerness.weight" not in names:
        return "retinanet"
    raise _unclear(source, "ATSS and FCOS have the same names")


def _values_from_shapes(state: Mapping[str, Tensor], detector: str) -> dict[str, Any]:
    """All that shapes and names tell, as values of a `ModelConfig`."""
    if detector == "faster_rcnn":
        return _values_of_regions(state)
    depth = len({name.split(".")[2] for name in state if name.startswith("head.cls_tower.")})
    if detector in ("rtmdet", "yolox"):
        steps = {"depthwise": True} if "head.cls_tower.0.conv.0.depthwise.weight" in state else {}
        return {
            "detector": detector,
            "backbone": {**_backbone(state), "init": "random"},
            "head": {"depth": depth, "channels": state["head.cls.0.weight"].shape[1], **steps},
            **_neck(state),
        }
    head: dict[str, Any] = {"depth": depth, "channels": state["head.cls.weight"].shape[1]}
    if depth:
        head["norm"] = "group" if "head.cls_tower.0.norm.weight" in state else "none"
        bias = "head.cls_tower.0.conv.bias" in state
        if bias != (head["norm"] == "none"):
            head["conv_bias"] = bias
    code = state["head.box.weight"].shape[0]
    if detector == "gfl":
        head["reg_max"] = code // 4 - 1
    if detector == "retinanet" and code != 4 * ANCHORS:
        raise LookupError(f"head of {ANCHORS} anchors a cell")
    return {
        "detector": detector,
        "backbone": {**_backbone(state), "init": "random"},
        "head": head,
        **_neck(state),
    }


def _values_of_regions(state: Mapping[str, Tensor]) -> dict[str, Any]:
    second, levels = "head.region.5.weight" in state, _numbers(state, "neck.inner_blocks.")
    width = state["head.region.5.weight" if second else "head.region.fc7.weight"].shape[0]
    return {
        "detector": "faster_rcnn",
        "backbone": {**_backbone(state), "init": "random"},
        "neck": {"channels": state["neck.layer_blocks.0.0.weight"].shape[0]},
        "regions": {"version": "v2" if second else "v1", "channels": width},
        **({"strides": COARSEST} if levels == len(COARSEST) - 1 else {}),
    }


def _neck(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Its section, and the strides of its levels."""
    if "neck.out_convs.0.conv.weight" in state:
        out = state["neck.out_convs.0.conv.weight"]
        pafpn: dict[str, Any] = {"channels": out.shape[0], "blocks": _numbers(state, "neck.top_down_blocks.0.blocks.")}
        pafpn["kind"] = "yolox_pafpn" if out.shape[-1] == 1 else "pafpn"
        if "neck.downsamples.0.depthwise_conv.conv.weight" in state:
            pafpn["depthwise"] = True
        return {"neck": pafpn, "strides": [8, 16, 32]}
    neck: dict[str, Any] = {"kind": "fpn", "channels": state["neck.output.0.weight"].shape[0]}
    levels = sum(name.startswith("neck.output.") and name.endswith(".weight") for name in state)
    widest = state["neck.lateral.2.weight"].shape[1]
    if levels > 3 and neck["channels"] != widest and state["neck.output.3.weight"].shape[1] == widest:
        neck["p6_from"] = "c5"
    return {"neck": neck, "strides": [8, 16, 32, 64, 128][:levels]}


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "backbone.features.0.0.weight" in state and "backbone.norms.1.weight" in state:
        found, family, kind = _counts(state, "backbone.features.", (1, 3, 5, 7)), "swin", None
        width = state["backbone.features.0.0.weight"].shape[0]
    elif "backbone.features.16.0.weight" in state:
        if state["backbone.features.16.0.weight"].shape[0] != registry.BACKBONES[MOBILENET].out_channels[-1]:
            raise LookupError(f"last convolution of {MOBILENET}")
        return {"name": MOBILENET}
    elif "backbone.stem.2.conv.weight" in state:
        found, family, kind = tuple(_csp_blocks(state, stage) for stage in (1, 2, 3, 4)), "cspnext", None
        width = state["backbone.stem.2.conv.weight"].shape[0]
    elif "backbone.stem.conv.conv.weight" in state:
        found, family, kind = tuple(_csp_blocks(state, stage) for stage in (1, 2, 3, 4)), "cspdarknet", None
        width = state["backbone.stem.conv.conv.weight"].shape[0]
    else:
        width = state["backbone.conv1.weight"].shape[0]
        found, family = _counts(state, "backbone.layer", (1, 2, 3, 4)), "resnet"
        kind = "bottleneck" if "backbone.layer1.0.conv3.weight" in state else "basic"
    steps = "backbone.stage1.0.depthwise_conv.conv.weight" in state
    alike = [
        name
        for name, entry in registry.BACKBONES.items()
        if entry.family == family and entry.layers == found and kind in (None, entry.block) and entry.depthwise == steps
    ]
    for name in sorted(alike, key=lambda name: registry.BACKBONES[name].width != width):  # of the published width first
        return {"name": name, "width": width}
    raise LookupError(f"{family} of {found} blocks")


def _csp_blocks(state: Mapping[str, Tensor], stage: int) -> int:
    """How many blocks a stage of CSPNeXt or CSPDarknet has; the last has its layer behind another one."""
    return _numbers(state, f"backbone.stage{stage}.{2 if stage == 4 else 1}.blocks.")


def _numbers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _counts(state: Mapping[str, Tensor], prefix: str, stages: tuple[int, ...]) -> tuple[int, ...]:
    """How many blocks each stage has."""
    blocks = {tuple(name.removeprefix(prefix).split(".")[:2]) for name in state if name.startswith(prefix)}
    return tuple(sum(stage == str(number) for stage, _ in blocks) for number in stages)


def _assume(values: dict[str, Any], source: Source, state: Mapping[str, Tensor], digest: str) -> list[str]:
    """Fill in what no tensor tells, as the project of the file has it by default; in words what that is."""
    backbone, detector = values["backbone"], values["detector"]
    if source.format == "native":
        return [f"assumed: every knob that shapes no tensor is the default: {_SHAPELESS}"]
    if source.format == "mmdet":
        resnet = registry.BACKBONES[backbone["name"]].family == "resnet"
        if source.config:
            return mmdet_variant.read_config(values, source.config, source.name, resnet)
        return mmdet_variant.assume_unsaid(values, source.name, resnet)
    if source.format == "megvii":
        values["pixels"] = mmdet_variant.YOLOX_PIXELS
        return [megvii.ASSUMED]
    of_all = torchvision.ALWAYS if detector in torchvision.OF_DETECTOR else {}
    more = [ON_MOBILENET] if backbone["name"] == MOBILENET else []
    more += [SMALL_IMAGES] if more and digest.startswith(SMALL_DIGEST) else []
    for sections in (of_all, torchvision.OF_DETECTOR.get(detector, {}), _TORCHVISION[detector], *more):
        for section, knobs in sections.items():
            values[section] = {**values.get(section, {}), **knobs}
    if detector == "retinanet" and values["head"].get("norm") == "group":  # the second version
        values["losses"] = {"l1": 0.0, "giou": 1.0}
    backbone = values["backbone"]
    if not any(name.endswith(torchvision.COUNTER) for name in state):
        backbone["norm_frozen"] = True
    notes: list[str] = []
    if more:
        what = "its published file for images of 320 pixels" if len(more) > 1 else "fasterrcnn_mobilenet_v3_large_fpn"
        notes.append(
            f"taken for {what}: proposals as its builder has them (regions.proposals, postprocess.pre_nms), which no "
            "tensor tells"
        )
    notes += [
        "assumed: anchors, cells, pixel values and thresholds by default, as torchvision's builders have them; no "
        "tensor tells these: if one is otherwise, name the model (--model)"
    ]
    if digest.startswith((EPS_FREE, EPS_FREE_REGIONS)):
        backbone |= {"norm_frozen": True, "norm_eps": 0.0}
        notes.append(
            f"this is the published {_PROPER[detector]} that torchvision "
            "evaluates with a norm's eps of 0: norm_eps is 0"
        )
    elif backbone.get("norm_frozen") and _first_version(values):
        notes.append(
            "assumed: norms with torchvision's eps of 1e-5. One fine-tuned from its COCO_V1 weights "
            f"({_PROPER[detector]}) computes with 0, which no tensor tells: then name the model (--model) with "
            "backbone.norm_eps 0"
        )
    return notes


def _another_backbone(source: Source) -> ConfigError:
    return ConfigError(
        f"{source.name} is no Faster R-CNN of torchvision's on a ResNet or a MobileNetV3, and of its names no other is "
        "read",
        remedy="Use fasterrcnn_resnet50_fpn or its version 2, fasterrcnn_mobilenet_v3_large_fpn, or one that you "
        "trained on another ResNet.",
    )


def _first_version(values: Mapping[str, Any]) -> bool:
    """Whether the published weights of such a detector are of the version that torchvision evaluates with eps 0."""
    if values["detector"] == "faster_rcnn":
        return bool(values["regions"]["version"] == "v1" and values["backbone"]["name"] != MOBILENET)
    return bool(values["detector"] == "retinanet" and values["head"].get("norm") != "group")
