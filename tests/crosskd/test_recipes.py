"""Every packaged recipe is valid, and the published ones carry the published numbers, field by field."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.models.detection import (
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.ops.misc import FrozenBatchNorm2d

from crosskd.convert.recognise import EPS_FREE, EPS_FREE_REGIONS, recognise
from crosskd.convert.source import Source
from crosskd.engine.optim import build_optimizer
from crosskd.errors import ConfigError
from crosskd.spec.alike import code_facts
from crosskd.spec.config import StudentConfig, TrainConfig
from crosskd.spec.distill.pairing import resolve_pair
from crosskd.spec.presets import load_recipe, recipe_names, recipe_text, recipe_titles
from crosskd.spec.weights.start import misfits
from tests.support.mmdet_names import KEYS
from tests.support.published import RATES, ROWS, TOTALS

SWEEPS = Path(__file__).parents[2] / "benchmarks" / "sweeps"
SPLIT = {"annotations": "instances.json", "images": "images"}
DATA = {"train": SPLIT, "val": SPLIT}
WEIGHTS = {"file": "teacher.safetensors"}
TRIOS = ["demo", "bccd"]
# Name -> torchvision's builder, and how the sha256 of its published file begins.
TUNED: dict[str, tuple[Callable[..., Any], str]] = {
    "finetune_gfl_r50": (retinanet_resnet50_fpn, ""),  # MMDetection's
    "finetune_retinanet_r50": (retinanet_resnet50_fpn, EPS_FREE),
    "finetune_faster_rcnn_r50": (fasterrcnn_resnet50_fpn, EPS_FREE_REGIONS),
    "finetune_faster_rcnn_mobilenet_v3": (fasterrcnn_mobilenet_v3_large_fpn, "fb6a3cc7"),
}
RTMDETS = ["rtmdet_tiny_300e", "rtmdet_tiny_s_36e"]  # for which no result is published
YOLOXES = ["yolox_s_300e", "yolox_tiny_s_36e"]  # too
TWO_STAGE = ["faster_rcnn_r18_r50", "faster_rcnn_r18_r50_short"]  # nor for these
DETRS = ["deformable_detr_r18_50e", "deformable_detr_r18_r50"]  # nor for these

# What a recipe may say beside the published facts: how this machine goes about it, and the total batch, tested alone.
OWN = {"accumulate", "loader.workers", "checkpoint.every_steps", "log_every"}


def resolved(name: str) -> TrainConfig:
    """With data and, where it distils, a teacher's weights; the knobs that depend on the pair are filled in."""
    values = load_recipe(name) | {"data": DATA}
    if "distill" in values:
        values["teacher"] = {**values.get("teacher", {}), "weights": WEIGHTS}
    config = TrainConfig.model_validate(values)
    if config.distill is None or config.teacher is None or config.teacher.model is None:
        return config
    distill, misfits = resolve_pair(config.distill, config.student, config.teacher.model)
    assert misfits == []
    return config.model_copy(update={"distill": distill})


def at(config: TrainConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def comment(name: str) -> str:
    return "\n".join(line for line in recipe_text(name).splitlines() if line.startswith("#"))


def test_the_package_holds_the_published_recipes_and_the_trios() -> None:
    trios = [f"{trio}_{role}" for trio in TRIOS for role in ("teacher", "student", "crosskd")]
    assert recipe_names() == sorted([*ROWS, *trios, *TUNED, *RTMDETS, *YOLOXES, *TWO_STAGE, *DETRS])


@pytest.mark.parametrize("name", TUNED)
def test_a_fine_tuning_is_of_the_very_detector_that_is_published(name: str) -> None:
    """By names and shapes of that file: nothing of it but the class layer may begin anew."""
    builder, digest = TUNED[name]
    if not digest:
        shapes: dict[str, Any] = KEYS["gfl_r50"]
    else:
        with torch.device("meta"):
            built = builder(weights=None, weights_backbone=None)
        shapes = {key: value.shape for key, value in built.state_dict().items()}
    tensors = {key: torch.zeros(tuple(shape), device="meta") for key, shape in shapes.items()}
    found, _ = recognise(Source("x.pth", "mmdet" if not digest else "torchvision", tensors), digest)
    student = resolved(name).student
    assert misfits(student, found) == []
    assert code_facts(student) == code_facts(found)
    assert (student.neck, student.regions) == (found.neck, found.regions)
    assert student.backbone.norm_eps == found.backbone.norm_eps
    assert resolved(name).model_dump(mode="json")["student"].get("init") is None
    begun = load_recipe(name)["student"] | {"init": WEIGHTS}
    assert StudentConfig.model_validate(begun).backbone.init == "random"


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_a_configuration_without_its_data(name: str) -> None:
    values = load_recipe(name)
    assert "data" not in values
    assert "weights" not in values.get("teacher", {})
    config = resolved(name)
    assert config.distill is None or config.teacher is not None
    header = recipe_text(name).splitlines()
    assert header[0].startswith("# ")
    assert recipe_titles()[name] == header[0][2:]


@pytest.mark.parametrize("name", ROWS)
def test_every_published_field_is_as_published(name: str) -> None:
    config, facts = resolved(name), ROWS[name].facts()
    assert {path: at(config, path) for path in facts} == facts


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_says_nothing_beside_what_is_published(name: str) -> None:
    assert set(leaves(load_recipe(name))) <= ROWS[name].facts().keys() | OWN


@pytest.mark.parametrize("name", ROWS)
def test_total_batch_and_learning_rate_are_as_published_on_one_gpu_and_on_eight(name: str) -> None:
    detector, config = ROWS[name].detector, resolved(name)
    eight = config.model_copy(update={"gpus": 8, "accumulate": 1})
    for settings in (config, eight):
        total = settings.batch_size * settings.accumulate * settings.gpus
        assert total == TOTALS[detector]
        parameter = torch.nn.Linear(1, 1, bias=False)
        optimizer = build_optimizer(parameter, settings.optimizer, total_batch=total)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(RATES[detector], rel=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_the_header_tells_the_published_ap_and_nothing_else_of_the_kind(name: str) -> None:
    told = re.findall(r"\b\d\d\.\d\b", comment(name))
    assert told == list(ROWS[name].ap)
    assert ROWS[name].ap or "No AP is published" in comment(name)


def test_the_documentation_lists_every_published_recipe_with_its_ap() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` (\|.*)$", page, re.MULTILINE))
    assert sorted(listed) == sorted(ROWS)
    for name, row in ROWS.items():
        assert re.findall(r"\b\d\d\.\d\b", listed[name]) == list(row.ap), name


# Of MMDetection's configurations, for COCO: what its recipes share with the published training, size by size.
RTMDET = {
    "optimizer": {"name": "adamw", "weight_decay": 0.05, "norm_decay": False},
    "schedule": {"decay": "cosine", "flat": 0.5, "final_factor": 0.05, "warmup_steps": 1000, "warmup_factor": 1e-5},
    "augment": {"letterbox": [640], "pad_to": 640, "long_edge": 640, "flip": 0.5, "antialias": False, "affine": None},
    "augment.mosaic": {"probability": 1.0, "cached": True},
    "augment.mixup": {"probability": 0.5, "cached": True, "range": (1.0, 1.0), "flip": 0.5},
    "augment.crop": {"scales": (0.5, 2.0)},
    "augment.hsv": {"hue": 10, "saturation": 30, "value": 30},
    "loader": {"drop_empty": True, "min_image_side": 32, "group_by_aspect": False},
    "student.neck": {"kind": "pafpn"},
    "student.pixels": {"order": "bgr", "padding": 114},
}
YOLOX = {
    "optimizer": {"name": "sgd", "nesterov": True, "momentum": 0.9, "weight_decay": 5e-4, "norm_decay": False},
    "schedule": {"warmup": "quadratic", "decay": "cosine", "final_factor": 0.05},
    "augment": {"pad_to": 640, "long_edge": 640, "flip": 0.5, "antialias": False, "crop": None},
    "augment.mosaic": {"probability": 1.0, "cached": False},
    "augment.affine": {"degrees": 10, "translate": 0.1, "shear": 2},
    "augment.hsv": {"hue": 10, "saturation": 30, "value": 30},
    "loader": {"drop_empty": False, "min_image_side": 32, "group_by_aspect": False},
    "student.neck": {"kind": "yolox_pafpn"},
    "student.pixels": {"std": (1.0, 1.0, 1.0), "padding": 114},
}
BASES = {"rtmdet": RTMDET, "yolox": YOLOX}
FULL = {  # beside these: what belongs to the whole schedule
    "rtmdet_tiny_300e": {
        "optimizer": {"lr": 0.004, "base_batch": 256},
        "schedule": {"epochs": 300},
        "augment.mosaic": {"off_last_epochs": 20},
        "augment.mixup": {"off_last_epochs": 20},
        "ema": {"decay": 0.9998},
    },
    "yolox_s_300e": {
        "optimizer": {"lr": 0.01, "base_batch": 64},
        "schedule": {"epochs": 300, "final_epochs": 15},
        "augment": {"letterbox": list(range(480, 801, 32))},
        "augment.mosaic": {"off_last_epochs": 15},
        "augment.affine": {"scales": (0.1, 2.0)},
        "augment.mixup": {"probability": 1.0, "range": (0.8, 1.6), "flip": 0.5, "off_last_epochs": 15},
        "ema": {"decay": 0.9998},
        "student.losses": {"l1_last_epochs": 15},
    },
}


@pytest.mark.parametrize("name", [*RTMDETS, *YOLOXES])
def test_recipes_of_rtmdet_and_yolox_have_their_published_numbers(name: str) -> None:
    config = resolved(name)
    for facts in (BASES[config.student.detector], FULL.get(name, {})):
        for path, values in facts.items():
            assert {knob: getattr(at(config, path), knob) for knob in values} == values, path
    assert config.batch_size * config.accumulate * config.gpus == config.optimizer.base_batch
    assert re.search(r"No AP\s(?:# )?is published", comment(name))
    assert "osaic" in comment(name)


@pytest.mark.parametrize("name", YOLOXES)
def test_yolox_s_last_epochs_are_at_the_last_rate_with_l1_and_without_mosaic(name: str) -> None:
    config = resolved(name)
    assert config.augment.mosaic is not None
    assert config.schedule.final_epochs == config.student.losses.l1_last_epochs == config.augment.mosaic.off_last_epochs
    assert config.optimizer.lr / (config.optimizer.base_batch or 1) == pytest.approx(0.01 / 64)
    assert (config.augment.mixup is None) is (config.student.backbone.name == "cspdarknet_tiny")


@pytest.mark.parametrize("name", TWO_STAGE)
def test_a_two_stage_student_learns_from_torchvisions_detector_as_the_authors_branch_has_it(name: str) -> None:
    config = resolved(name)
    with torch.device("meta"):
        built = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, norm_layer=FrozenBatchNorm2d)
    teacher, _ = recognise(Source("x.pth", "torchvision", built.state_dict()), EPS_FREE_REGIONS)
    assert config.distill is not None
    distill, misfits = resolve_pair(config.distill, config.student, teacher)
    assert misfits == []
    assert distill.crosskd is not None
    told = (distill.crosskd.cls_weight, distill.crosskd.class_temperature, distill.crosskd.box_weight)
    assert told == (0.5, 3.0, 1.0)
    assert distill.pkd is None or distill.pkd.weight == 6
    assert re.search(r"[Nn]o AP\s(?:# )?is published", comment(name))


def test_a_detr_learns_from_another_one_as_the_authors_branch_has_it() -> None:
    alone, distilled = (load_recipe(name) for name in DETRS)
    assert distilled.pop("distill") == {
        "crosskd": {
            "queries": "teacher", "cls_weight": 1.0, "beta": 0.0, "box_weight": 1.0, "giou": True, "giou_weight": 1.0
        }
    }  # fmt: skip
    assert alone == distilled
    assert {alone["optimizer"][f"{part}_lr_factor"] for part in ("backbone", "sampling")} == {0.1}
    config = resolved(DETRS[1])
    teacher = {**alone["student"], "backbone": {**alone["student"]["backbone"], "name": "resnet50"}}
    assert config.distill is not None
    assert resolve_pair(config.distill, config.student, StudentConfig.model_validate(teacher))[1] == []
    assert re.search(r"No AP\s(?:# )?is published", comment(DETRS[1]))


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
    code = "import sys, crosskd.spec.presets as p; p.recipe_titles(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("bccd_*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_of_the_benchmarks_are_valid(path: Path) -> None:
    """Those on COCO are judged by the service: `tests/test_reproduce.py`."""
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    teacher = TrainConfig.model_validate(sweep["teacher"] | {"data": DATA}).student
    distilled = {name: arm for name, arm in sweep["arms"].items() if arm["distill"] is not None}
    assert set(sweep["arms"]) == {"alone", *distilled}
    for arm in distilled.values():
        config = TrainConfig.model_validate(sweep["base"] | {"data": DATA, "teacher": {"weights": WEIGHTS}} | arm)
        assert config.distill is not None
        assert resolve_pair(config.distill, config.student, teacher)[1] == []
