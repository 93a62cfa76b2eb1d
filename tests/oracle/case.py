"""One case of the oracle's vectors: the models, inputs and settings that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosskd import registry
from crosskd.config import BackboneConfig, CrossKDConfig, DistillConfig, ModelConfig, PKDConfig, PostprocessConfig
from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.detector import Detector, build_detector
from crosskd.structures import Targets
from tests.oracle import weight_rule

KINDS = {"plain", "crosskd", "pkd"}
VARIANTS = {None: True, "preact": False}  # after_relu
KD_TYPES = {
    "loss_cls_kd": "KDQualityFocalLoss",
    "loss_reg_kd": "KnowledgeDistillationKLDivLoss",
    "loss_feat_kd": "PKDLoss",
}


class UnknownDetectorError(Exception):
    """The case is of a detector that this project does not have."""


class UnknownSettingError(Exception):
    """The case says something that this runner does not know how to build."""


@dataclass(frozen=True)
class Case:
    """The vectors' own fields, read once; `values` are what the reference computed."""

    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        detector, variant = self.values["detector"], self.values.get("variant")
        if detector not in registry.DETECTORS:
            raise UnknownDetectorError(f"there is no detector {detector!r} yet")
        if variant not in VARIANTS:
            raise UnknownSettingError(f"unknown variant {variant!r}")
        if not self.kinds <= KINDS:
            raise UnknownSettingError(f"unknown kind {self.values['kind']!r}")
        for section, knobs in self.values.get("kd_cfg", {}).items():
            if isinstance(knobs, Mapping) and knobs.get("type") != KD_TYPES.get(section):
                raise UnknownSettingError(f"unknown {section} {knobs.get('type')!r}")

    @property
    def kinds(self) -> set[str]:
        return set(self.values["kind"].split("+"))

    @property
    def distils(self) -> bool:
        return self.kinds != {"plain"}

    def student(self, dtype: torch.dtype) -> Detector:
        return self._model(self.values["student_depth"], self.values["seed"], dtype)

    def teacher(self, dtype: torch.dtype) -> Detector:
        seed = self.values["seed"] + weight_rule.TEACHER_SEED_OFFSET
        return self._model(self.values["teacher_depth"], seed, dtype)

    def _model(self, depth: int, seed: int, dtype: torch.dtype) -> Detector:
        backbone = BackboneConfig(name=f"resnet{depth}", init="random", frozen_stages=1, norm_eval=True)
        config = ModelConfig(
            detector=self.values["detector"], backbone=backbone, postprocess=_postprocess(self.values["test_cfg"])
        )
        model = build_detector(config, self.values["num_classes"])
        fill(model, seed)
        return model.to(dtype)

    def distill(self) -> DistillConfig:
        settings = self.values["kd_cfg"]
        crosskd = pkd = None
        if "crosskd" in self.kinds:
            cls, box = settings["loss_cls_kd"], settings["loss_reg_kd"]
            crosskd = CrossKDConfig(
                cut=self.values["reused_teacher_head_idx"],
                cls_weight=cls["loss_weight"],
                beta=cls["beta"],
                box_weight=box["loss_weight"],
                temperature=box["T"],
                after_relu=VARIANTS[self.values.get("variant")],
            )
        if "pkd" in self.kinds:
            pkd = PKDConfig(weight=settings["loss_feat_kd"]["loss_weight"])
        return DistillConfig(crosskd=crosskd, pkd=pkd)

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


def fill(model: Detector, seed: int) -> None:
    """Set every tensor of `model` by the rule, which knows MMDetection's names."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            value = weight_rule.value(to_mmdet(name), tuple(tensor.shape), seed)
            if value is not None:
                tensor.copy_(torch.as_tensor(value))


def _postprocess(settings: Mapping[str, Any]) -> PostprocessConfig:
    if settings.get("min_bbox_size", 0) != 0 or settings["nms"]["type"] != "nms":
        raise UnknownSettingError(f"unknown test_cfg {settings}")
    return PostprocessConfig(
        score_threshold=settings["score_thr"],
        nms_iou=settings["nms"]["iou_threshold"],
        pre_nms=settings["nms_pre"],
        max_detections=settings["max_per_img"],
    )
