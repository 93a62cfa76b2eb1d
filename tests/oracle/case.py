"""One case of the oracle's vectors: the models, inputs and settings that it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.detector import Detector, build_detector
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig, CrossKDConfig, DistillConfig, ModelConfig, PKDConfig, PostprocessConfig
from crosskd.structures import Targets
from tests.oracle import weight_rule

KINDS = {"plain", "crosskd", "pkd"}
VARIANTS = {None, "preact", "normbbox"}
# The head and loss of the variant `normbbox`, in student and teacher.
NORMBBOX: Mapping[str, Mapping[str, Any]] = {
    "head": {"norm_on_bbox": True, "centerness_on_reg": True, "center_sampling": True, "conv_bias": True},
    "losses": {"giou": 1.0, "iou": 0.0},
}
# Of each detector: how its cases' boxes are mimicked, and its vectors name that.
BOX_MIMIC = {
    "KnowledgeDistillationKLDivLoss": "kl",
    "GIoULoss": "giou",
    "IoULoss": "iou",
}
# Sections of kd_cfg, and what may stand in them, by type. None: any value, it is a knob of ours. All else is fixed.
KD_CFG: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "loss_cls_kd": [{"type": "KDQualityFocalLoss", "beta": None, "loss_weight": None}],
    "loss_reg_kd": [
        {"type": "KnowledgeDistillationKLDivLoss", "class_reduction": "sum", "T": None, "loss_weight": None},
        {"type": "GIoULoss", "loss_weight": None},
        {"type": "IoULoss", "loss_weight": None},
    ],
    "loss_center_kd": [{"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": None}],
    "loss_feat_kd": [{"type": "PKDLoss", "loss_weight": None}],
}
TEST_CFG = {"nms_pre", "min_bbox_size", "score_thr", "nms", "max_per_img"}
ALL = 2**31  # more than any image has, for the reference's -1


class UnknownDetectorError(Exception):
    """The case is of a detector that this project does not have."""


class UnknownSettingError(Exception):
    """The case says something that this runner does not know how to build."""


@dataclass(frozen=True)
class Inputs:
    """A case's images and boxes."""

    values: Mapping[str, Any]

    def images(self, dtype: torch.dtype) -> Tensor:
        inside = [tuple(meta["img_shape"]) for meta in self.values["img_metas"]]
        height, width = self.values["size"]
        return torch.from_numpy(weight_rule.make_images(self.values["seed"], (height, width), inside)).to(dtype)

    def targets(self, dtype: torch.dtype) -> Targets:
        metas = self.values["img_metas"]
        return Targets(
            boxes=[torch.tensor(boxes, dtype=dtype).reshape(-1, 4) for boxes in self.values["gt_bboxes"]],
            labels=[torch.tensor(labels, dtype=torch.long) for labels in self.values["gt_labels"]],
            sizes=[tuple(meta["img_shape"]) for meta in metas],
            padded=[tuple(meta["pad_shape"]) for meta in metas],
        )


@dataclass(frozen=True)
class Case(Inputs):
    """The vectors' own fields, read once; `values` are what the reference computed."""

    def __post_init__(self) -> None:
        detector, variant = self.values["detector"], self.values.get("variant")
        if detector not in registry.DETECTORS:
            raise UnknownDetectorError(f"there is no detector {detector!r} yet")
        if variant not in VARIANTS:
            raise UnknownSettingError(f"unknown variant {variant!r}")
        if not self.kinds <= KINDS:
            raise UnknownSettingError(f"unknown kind {self.values['kind']!r}")
        if self.distils and not self.values.get("kd_cfg"):
            raise UnknownSettingError("the case distils, but has no kd_cfg")
        _check_distillation(self.values)

    @property
    def kinds(self) -> set[str]:
        return set(self.values["kind"].split("+"))

    @property
    def distils(self) -> bool:
        return self.kinds != {"plain"}

    @property
    def detector(self) -> str:
        name: str = self.values["detector"]
        return name

    def student(self, dtype: torch.dtype) -> Detector:
        return self._model(self.values["student_depth"], self.values["seed"], dtype, p6_from="p5")

    def teacher(self, dtype: torch.dtype) -> Detector:
        seed = self.values["seed"] + weight_rule.TEACHER_SEED_OFFSET
        # The README's quirk 11: RetinaNet's teachers alone take P6 from C5.
        p6_from = "c5" if self.detector == "retinanet" else "p5"
        return self._model(self.values["teacher_depth"], seed, dtype, p6_from=p6_from)

    def _model(self, depth: int, seed: int, dtype: torch.dtype, *, p6_from: str) -> Detector:
        caffe = self.detector == "fcos"
        backbone = BackboneConfig(
            name=f"resnet{depth}",
            init="random",
            frozen_stages=1,
            norm_eval=True,
            style="caffe" if caffe else "pytorch",
            norm_frozen=caffe,
        )
        config = ModelConfig(
            detector=self.detector,
            backbone=backbone,
            neck={"p6_from": p6_from},
            postprocess=postprocess(self.values["test_cfg"]),
            **(NORMBBOX if self.values.get("variant") == "normbbox" else {}),
        )
        with Uninitialised():
            model = build_detector(config, self.values["num_classes"])
        fill(model, seed)
        return model.to(dtype)

    def distill(self) -> DistillConfig:
        settings = self.values["kd_cfg"]
        crosskd = pkd = None
        if "crosskd" in self.kinds:
            cls, box, centre = settings["loss_cls_kd"], settings["loss_reg_kd"], settings.get("loss_center_kd")
            crosskd = CrossKDConfig(
                cut=self.values["reused_teacher_head_idx"],
                cls_weight=cls["loss_weight"],
                beta=cls["beta"],
                box=BOX_MIMIC[box["type"]],
                box_weight=box["loss_weight"],
                temperature=box.get("T", 1.0),  # only distributions have one
                centerness_weight=centre["loss_weight"] if centre else 0.0,
                after_relu=self.values.get("variant") != "preact",
                reference_normaliser=True,
            )
        if "pkd" in self.kinds:
            pkd = PKDConfig(weight=settings["loss_feat_kd"]["loss_weight"])
        return DistillConfig(crosskd=crosskd, pkd=pkd)


class Uninitialised(TorchFunctionMode):
    """Draws no random weights, which `fill` would set anew: a model of fifty million takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def fill(model: Detector, seed: int) -> None:
    """Set every tensor of `model` by the rule, which knows MMDetection's names."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            value = weight_rule.value(to_mmdet(name, model.config.detector), tuple(tensor.shape), seed)
            if value is not None:
                tensor.copy_(torch.as_tensor(value))


def _check_distillation(values: Mapping[str, Any]) -> None:
    """Refuse what the distillation is told and would not heed."""
    settings = values.get("kd_cfg") or {}
    for section, knobs in settings.items():
        if section == "reused_teacher_head_idx":
            if knobs != values["reused_teacher_head_idx"]:
                raise UnknownSettingError(f"kd_cfg cuts at {knobs}, the case at {values['reused_teacher_head_idx']}")
            continue
        if knobs is None:
            continue
        if section not in KD_CFG or not isinstance(knobs, Mapping):
            raise UnknownSettingError(f"unknown kd_cfg {section} {knobs!r}")
        known = next((form for form in KD_CFG[section] if form["type"] == knobs.get("type")), KD_CFG[section][0])
        for key in {*knobs, *known}:  # one left out has the reference's default, which the vectors do not say
            if key not in known or key not in knobs or known[key] not in (None, knobs[key]):
                raise UnknownSettingError(f"unknown kd_cfg {section}.{key} {knobs.get(key)!r}")


def postprocess(settings: Mapping[str, Any]) -> PostprocessConfig:
    """A case's `test_cfg` as ours; raises `UnknownSettingError` for what we do not have."""
    nms = settings["nms"]
    known = set(settings) <= TEST_CFG and set(nms) <= {"type", "iou_threshold"}
    if not known or settings.get("min_bbox_size", 0) != 0 or nms["type"] != "nms":
        raise UnknownSettingError(f"unknown test_cfg {settings}")
    # YOLOX knows no limits, and names none.
    limits = {"pre_nms": settings.get("nms_pre", -1), "max_detections": settings.get("max_per_img", -1)}
    finite = {name: limit for name, limit in limits.items() if limit != -1}
    # Unlimited is above the bounds that a service needs.
    unlimited = dict.fromkeys(limits.keys() - finite.keys(), ALL)
    checked = PostprocessConfig(
        score_threshold=settings["score_thr"], nms_iou=settings["nms"]["iou_threshold"], **finite
    )
    return checked.model_copy(update=unlimited)
