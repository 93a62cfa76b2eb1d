"""The published configurations (arXiv 2306.11369) as plain facts, by the paths of a resolved `TrainConfig`.

Nothing here is computed from the recipes or from the code's defaults: it is what they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Facts = dict[str, Any]

RGB = {"pixels.mean": (123.675, 116.28, 103.53), "pixels.std": (58.395, 57.12, 57.375), "pixels.order": "rgb"}
CAFFE = {"pixels.mean": (102.9801, 115.9465, 122.7717), "pixels.std": (1.0, 1.0, 1.0), "pixels.order": "bgr"}

# Of the student and, where nothing else is said, of the teacher.
MODEL: Facts = {
    "backbone.style": "pytorch",
    "neck.channels": 256,
    "neck.p6_from": "p5",
    "neck.relu_before_p7": False,
    "head.channels": 256,
    "head.depth": 4,
    "head.norm": "group",
    "head.norm_groups": 32,
    "strides": [8, 16, 32, 64, 128],
    "postprocess.score_threshold": 0.05,
    "postprocess.pre_nms": 1000,
    "postprocess.max_detections": 100,
    "postprocess.score": "product",
    **RGB,
}
# Of the students alone: a teacher's backbone does not learn.
STUDENT: Facts = {
    "backbone.init": "imagenet",
    "backbone.frozen_stages": 1,
    "backbone.norm_eval": True,
    "backbone.norm_frozen": False,
}
TRAINING: Facts = {
    "augment.short_edges": [800],
    "augment.long_edge": 1333,
    "augment.flip": 0.5,
    "augment.pad_to": 32,
    "augment.min_side": 1.0,
    "loader.drop_empty": True,
    "loader.min_image_side": 32,
    "loader.group_by_aspect": True,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.01,
    "optimizer.base_batch": 16,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.norm_decay": True,
    "optimizer.bias_lr_factor": 1.0,
    "optimizer.bias_decay": True,
    "schedule.warmup": "linear",
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": 0.001,
    "schedule.decay": "multistep",
    "schedule.gamma": 0.1,
    "schedule.max_steps": None,
    "batch_size": 2,  # images per GPU
    "clip_norm": None,
    "ema": None,
    "precision": "fp32",
    "init_student": False,
    "distill.crosskd.beta": 1.0,
    "distill.crosskd.temperature": 1.0,
    "distill.crosskd.after_relu": True,
    "distill.crosskd.centerness_weight": 0.0,
}
SCHEDULES: dict[str, Facts] = {
    "1x": {"schedule.epochs": 12, "schedule.milestones": [8, 11]},
    "2x": {"schedule.epochs": 24, "schedule.milestones": [16, 22]},
}

# --- what differs by detector ----------------------------------------------------------------------------------------

_FOCAL = {"losses.focal": 1.0, "losses.focal_gamma": 2.0, "losses.focal_alpha": 0.25}
MODELS: dict[str, Facts] = {
    "gfl": {
        "anchor_scale": 8.0,
        "head.reg_max": 16,
        "losses.quality_focal": 1.0,
        "losses.quality_focal_beta": 2.0,
        "losses.distribution_focal": 0.25,
        "losses.giou": 2.0,
        "postprocess.nms_iou": 0.6,
    },
    "retinanet": {
        "anchor_scale": 4.0,
        "head.norm": "none",
        "head.octaves": 3,
        "head.ratios": [0.5, 1.0, 2.0],
        "head.whole_pixel_anchors": False,
        **_FOCAL,
        "losses.l1": 1.0,
        "losses.giou": 0.0,
        "losses.iou": 0.0,
        "postprocess.nms_iou": 0.5,
    },
    "atss": {
        "anchor_scale": 8.0,
        **_FOCAL,
        "losses.giou": 2.0,
        "losses.iou": 0.0,
        "losses.centerness": 1.0,
        "postprocess.nms_iou": 0.6,
    },
    "fcos": {
        **CAFFE,
        "backbone.style": "caffe",
        "neck.relu_before_p7": True,
        "head.center_sampling": False,
        "head.norm_on_bbox": False,
        "head.centerness_on_reg": False,
        "head.point_offset": 0.5,
        **_FOCAL,
        "losses.iou": 1.0,
        "losses.giou": 0.0,
        "losses.centerness": 1.0,
        "postprocess.nms_iou": 0.5,
    },
}
# MMDetection's teachers.
TEACHERS: dict[str, Facts] = {"gfl": {}, "retinanet": {"neck.p6_from": "c5"}, "atss": {}, "fcos": {}}
STUDENTS: dict[str, Facts] = {
    "gfl": {},
    "retinanet": {},
    "atss": {},
    "fcos": {"backbone.init.file": "resnet50_caffe.pth", "backbone.norm_frozen": True},
}
_DISTILL: dict[str, tuple[int, float, str, float]] = {  # cut, class weight, how boxes are compared, box weight
    "gfl": (3, 1.0, "kl", 4.0),
    "retinanet": (3, 1.0, "giou", 1.0),
    "atss": (3, 1.0, "giou", 1.0),
    "fcos": (2, 0.4, "iou", 0.75),
}
TRAININGS: dict[str, Facts] = {
    "gfl": {},
    "retinanet": {},
    "atss": {"batch_size": 8, "distill.crosskd.centerness_weight": 1.0},
    "fcos": {
        "augment.short_edges": [640, 800],
        "optimizer.bias_lr_factor": 2.0,
        "optimizer.bias_decay": False,
        "schedule.warmup": "constant",
        "schedule.warmup_factor": 1 / 3,
        "clip_norm": 35.0,
    },
}
TOTALS = {"gfl": 16, "retinanet": 16, "fcos": 16, "atss": 64}  # images of a step: on 8 GPUs
RATES = {"gfl": 0.01, "retinanet": 0.01, "fcos": 0.01, "atss": 0.04}  # linear in the total batch


# --- the rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A published pair. `ap` are the figures of its header: student alone, with the method, teacher; where known."""

    detector: str
    student: str
    teacher: str
    schedule: str
    ap: tuple[str, ...]
    pkd: float | None = None

    def facts(self) -> Facts:
        """Every field that is published, by its path in a `TrainConfig` whose distill section is resolved."""
        cut, cls_weight, box, box_weight = _DISTILL[self.detector]
        model = MODEL | MODELS[self.detector] | {"detector": self.detector}
        student = model | STUDENT | STUDENTS[self.detector] | {"backbone.name": self.student}
        teacher = model | TEACHERS[self.detector] | {"backbone.name": self.teacher}
        if "backbone.init.file" in student:
            del student["backbone.init"]
        return {
            **{f"student.{path}": value for path, value in student.items()},
            **{f"teacher.model.{path}": value for path, value in teacher.items()},
            **TRAINING,
            **TRAININGS[self.detector],
            **SCHEDULES[self.schedule],
            "distill.crosskd.cut": cut,
            "distill.crosskd.cls_weight": cls_weight,
            "distill.crosskd.box": box,
            "distill.crosskd.box_weight": box_weight,
            **({"distill.pkd": None} if self.pkd is None else {"distill.pkd.weight": self.pkd}),
        }


ROWS: dict[str, Row] = {
    "gfl_r50_r101": Row("gfl", "resnet50", "resnet101", "1x", ("40.2", "43.7", "44.9")),
    "gfl_r50_r101_pkd": Row("gfl", "resnet50", "resnet101", "1x", ("40.2", "43.9", "44.9"), pkd=6.0),
    "gfl_r18_r50": Row("gfl", "resnet18", "resnet50", "1x", ("35.8", "38.7", "40.2")),
    "retinanet_r50_r101": Row("retinanet", "resnet50", "resnet101", "2x", ("37.4", "39.7", "38.9")),
    "retinanet_r50_r101_pkd": Row("retinanet", "resnet50", "resnet101", "2x", ("37.4", "39.8", "38.9"), pkd=2.0),
    "retinanet_r18_r50": Row("retinanet", "resnet18", "resnet50", "1x", ()),
    "retinanet_r50_swint": Row("retinanet", "resnet50", "swin_t", "1x", ("36.5", "38.0", "37.3")),
    "retinanet_mobilenetv2_r50": Row("retinanet", "mobilenet_v2", "resnet50", "1x", ("30.9", "34.1")),
    "fcos_r50_r101": Row("fcos", "resnet50", "resnet101", "2x", ("38.5", "41.1", "40.8")),
    "fcos_r50_r101_pkd": Row("fcos", "resnet50", "resnet101", "2x", ("38.5", "41.3", "40.8"), pkd=2.0),
    "atss_r50_r101": Row("atss", "resnet50", "resnet101", "1x", ("39.4", "41.8", "41.5")),
    "atss_r50_r101_pkd": Row("atss", "resnet50", "resnet101", "1x", ("39.4", "41.8", "41.5"), pkd=1.0),
}
