"""The models of a proposal: levels and anchors by the objects, and a student for every teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.proposal.goals import GOALS, GoalName
from crosskd.spec.proposal.models import DETECTORS, choose_detector, student, student_of, trained_teacher
from crosskd.spec.proposal.sizes import Size
from crosskd.spec.proposal.statistics import Spread, Statistics
from crosskd.spec.proposal.teacher import Teacher
from crosskd.spec.proposal.text import plain
from crosskd.spec.shapes import parameter_count

WIDE = {"rtmdet": "cspnext_s", "yolox": "cspdarknet_s", "rt_detr": "rt_detr_resnet50", "d_fine": "hgnet_v2_b4"}
OWN = {"lw_detr": "lw_detr_vit", "rf_detr": "rf_detr_dinov2"}


def size(small: float, large: float) -> Size:
    return Size(short=640, long=640, small=small, large=large, why="")


def spread(low: float, high: float) -> Spread:
    return Spread(least=low, low=low, middle=low, high=high, most=high)


def counted(aspect: tuple[float, float] = (0.5, 2.0), most: int = 9) -> Statistics:
    same = spread(1, 1)
    return Statistics(
        images=10, boxes=10, val_images=10, classes={"a": 10}, short=same, long=same, side=same,
        aspect=spread(*aspect), per_image=spread(1, most), small=0, medium=0, crowds=0, most_pixels=1,
    )  # fmt: skip


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_is_one_whose_teacher_is_larger(detector: Any, goal: GoalName) -> None:
    found = student(choose_detector(detector, size(10, 100)), GOALS[goal], size(10, 100), counted(), None)
    models = [ModelConfig.model_validate(plain(tree)) for tree in (found, trained_teacher(found, GOALS[goal], None))]
    small, large = (parameter_count(model, 3) for model in models)
    assert small < 0.7 * large
    assert {model.detector for model in models} == {detector}


@pytest.mark.parametrize(
    ("small", "large", "detector", "strides"),
    [(7.9, 100, "faster_rcnn", None), (8.0, 512, "gfl", 3), (20, 513, "gfl", 4), (20, 1025, "gfl", 5)],
)
def test_levels_go_from_the_smallest_objects_to_the_largest(
    small: float, large: float, detector: str, strides: int | None
) -> None:
    chosen = choose_detector(None, size(small, large))
    values = plain(student(chosen, GOALS["balanced"], size(small, large), counted(), None))
    assert values["detector"] == detector
    assert values.get("strides") == (None if strides is None else [8, 16, 32, 64, 128][:strides])


@pytest.mark.parametrize(
    ("aspect", "ratios"),
    [
        ((0.25, 4.0), [0.5, 1, 2]),
        ((0.2, 1.0), [0.25, 0.5, 1, 2]),
        ((1.0, 4.1), [0.5, 1, 2, 4]),
        ((1e-9, 1e9), [2.0**n for n in range(-6, 7)]),
    ],
)
def test_ratios_follow_the_boxes(aspect: tuple[float, float], ratios: list[float]) -> None:
    chosen = choose_detector("retinanet", size(30, 100))
    assert plain(student(chosen, GOALS["fast"], size(30, 100), counted(aspect), None))["head"]["ratios"] == ratios


@pytest.mark.parametrize(("small", "scale"), [(22.7, 4.0), (22.0, 2.8), (2.0, 1.0)])
def test_the_smallest_anchors_are_as_small_as_the_objects(small: float, scale: float) -> None:
    chosen = choose_detector("retinanet", size(small, 100))
    assert plain(student(chosen, GOALS["fast"], size(small, 100), counted(), None))["anchor_scale"] == scale


@pytest.mark.parametrize(("most", "kept"), [(100, None), (101, 200), (5000, 1000)])
def test_no_more_detections_are_kept_than_there_may_be(most: int, kept: int | None) -> None:
    values = plain(student(choose_detector("gfl", size(9, 9)), GOALS["fast"], size(9, 9), counted(most=most), None))
    assert values.get("postprocess", {}).get("max_detections") == kept


def teacher_of(detector: str, **values: Any) -> Teacher:
    backbone = {"name": WIDE.get(detector, "resnet50")}
    model = ModelConfig.model_validate({"detector": detector, "backbone": backbone, **values})
    return Teacher(Path("/data/teacher.safetensors"), model, ["a", "b"], None)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("detector", [name for name in registry.DETECTORS if name not in OWN])
def test_every_teacher_has_a_smaller_student(detector: str, goal: GoalName) -> None:
    teacher = teacher_of(detector)
    found = ModelConfig.model_validate(plain(student_of(teacher, goal, GOALS[goal], 2, None)))
    assert found.detector == detector
    assert found.strides == teacher.model.strides
    assert parameter_count(found, 2) < teacher.parameters


def test_a_student_has_the_sizes_of_its_teachers_head() -> None:
    teacher = teacher_of("gfl", strides=[8, 16, 32], head={"channels": 128, "depth": 3}, neck={"channels": 128})
    values = plain(student_of(teacher, "balanced", GOALS["balanced"], 2, Path("/data/r18.pth")))
    assert values["head"] == {"channels": 128, "depth": 3}
    assert (values["strides"], values["neck"]) == ([8, 16, 32], {"channels": 128})
    assert values["backbone"] == {"name": "resnet18", "init": {"file": "/data/r18.pth"}}


@pytest.mark.parametrize("detector", OWN)
def test_a_teacher_with_a_backbone_of_its_own_has_no_student(detector: str) -> None:
    model = ModelConfig.model_validate({"detector": detector, "backbone": {"name": OWN[detector]}})
    with pytest.raises(ConfigError, match="no student is proposed"):
        student_of(Teacher(Path("t"), model, ["a"], None), "fast", GOALS["fast"], 1, None)


def test_a_teacher_as_small_as_any_student_is_refused() -> None:
    narrow = {"neck": {"channels": 16}, "head": {"channels": 16, "depth": 1}}
    model = ModelConfig.model_validate({"backbone": {"name": "resnet_tiny", "width": 8}, **narrow})
    with pytest.raises(ConfigError, match="no larger than the smallest student"):
        student_of(Teacher(Path("t"), model, ["a"], None), "fast", GOALS["fast"], 1, None)
