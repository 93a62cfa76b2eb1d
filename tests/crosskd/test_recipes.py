"""Every packaged recipe is valid, and the published ones carry the published numbers, field by field."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from crosskd.config import TrainConfig
from crosskd.errors import ConfigError
from crosskd.presets import load_recipe, recipe_names, recipe_text, recipe_titles

SPLIT = {"annotations": "instances.json", "images": "images"}
DATA = {"train": SPLIT, "val": SPLIT}
TEACHER = {"weights": {"file": "teacher.safetensors"}}

# What all published configurations have in common.
COMMON = {
    "student.detector": "gfl",
    "student.backbone.init": "imagenet",
    "student.backbone.frozen_stages": 1,
    "student.backbone.norm_eval": True,
    "student.backbone.width": 64,
    "student.neck.channels": 256,
    "student.head.channels": 256,
    "student.head.depth": 4,
    "student.head.reg_max": 16,
    "student.strides": [8, 16, 32, 64, 128],
    "student.anchor_scale": 8.0,
    "student.losses.quality_focal": 1.0,
    "student.losses.quality_focal_beta": 2.0,
    "student.losses.distribution_focal": 0.25,
    "student.losses.giou": 2.0,
    "student.pixels.mean": (123.675, 116.28, 103.53),
    "student.pixels.std": (58.395, 57.12, 57.375),
    "student.pixels.order": "rgb",
    "student.postprocess.score_threshold": 0.05,
    "student.postprocess.nms_iou": 0.6,
    "student.postprocess.pre_nms": 1000,
    "student.postprocess.max_detections": 100,
    "augment.short_edges": [800],
    "augment.long_edge": 1333,
    "augment.flip": 0.5,
    "augment.pad_to": 32,
    "loader.drop_empty": True,
    "loader.group_by_aspect": True,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.01,
    "optimizer.base_batch": 16,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.norm_decay": True,
    "optimizer.bias_lr_factor": 1.0,
    "schedule.epochs": 12,
    "schedule.warmup": "linear",
    "schedule.warmup_steps": 500,
    "schedule.warmup_factor": 0.001,
    "schedule.decay": "multistep",
    "schedule.milestones": [8, 11],
    "schedule.gamma": 0.1,
    "clip_norm": None,
    "ema": None,
    "precision": "fp32",
    "distill.crosskd.cut": 3,
    "distill.crosskd.cls_weight": 1.0,
    "distill.crosskd.box_weight": 4.0,
    "distill.crosskd.temperature": 1.0,
    "distill.crosskd.beta": 1.0,
    "distill.crosskd.after_relu": True,
}
PUBLISHED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gfl_r50_r101": ({"student.backbone.name": "resnet50", "distill.pkd": None}, ["40.2", "43.7", "44.9", "resnet101"]),
    "gfl_r50_r101_pkd": (
        {"student.backbone.name": "resnet50", "distill.pkd.weight": 6.0},
        ["40.2", "43.9", "44.9", "resnet101"],
    ),
    "gfl_r18_r50": ({"student.backbone.name": "resnet18", "distill.pkd": None}, ["35.8", "38.7", "40.2", "resnet50"]),
}
TRIOS = ["demo", "bccd"]


def resolved(name: str) -> TrainConfig:
    values = load_recipe(name)
    extra = {"data": DATA} | ({"teacher": TEACHER} if "distill" in values else {})
    return TrainConfig.model_validate(values | extra)


def at(config: TrainConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def test_the_package_holds_the_published_recipes_and_the_trios() -> None:
    trios = [f"{trio}_{role}" for trio in TRIOS for role in ("teacher", "student", "crosskd")]
    assert recipe_names() == sorted([*PUBLISHED, *trios])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_a_configuration_without_its_data(name: str) -> None:
    values = load_recipe(name)
    assert not {"data", "teacher"} & set(values)
    config = resolved(name)
    assert config.distill is None or config.teacher is not None
    header = recipe_text(name).splitlines()
    assert header[0].startswith("# ")
    assert recipe_titles()[name] == header[0][2:]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(name: str) -> None:
    own, header = PUBLISHED[name]
    config = resolved(name)
    for path, expected in (COMMON | own).items():
        assert at(config, path) == expected, path
    assert config.batch_size * config.accumulate == 16
    comment = "\n".join(line for line in recipe_text(name).splitlines() if line.startswith("#"))
    for fact in header:
        assert fact in comment


@pytest.mark.parametrize("trio", TRIOS)
def test_the_student_alone_and_the_distilled_one_differ_in_the_distillation_only(trio: str) -> None:
    alone, distilled = load_recipe(f"{trio}_student"), load_recipe(f"{trio}_crosskd")
    assert distilled.pop("distill") is not None
    assert alone == distilled


@pytest.mark.parametrize("trio", TRIOS)
def test_a_teacher_fits_its_student(trio: str) -> None:
    teacher, student = resolved(f"{trio}_teacher").student, resolved(f"{trio}_student").student
    assert teacher.strides == student.strides
    assert teacher.head == student.head
    assert (teacher.backbone.width, student.backbone.width) == (32, 8)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="demo_teacher"):
        load_recipe("../config")


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, crosskd.presets as p; p.recipe_titles(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
