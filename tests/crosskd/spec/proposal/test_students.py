"""Every teacher has a student that it can teach, or says why it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.spec.proposal.goals import GOALS, GoalName
from crosskd.spec.proposal.students import student_of
from crosskd.spec.proposal.teacher import Teacher
from crosskd.spec.proposal.text import plain
from crosskd.spec.weights.shapes import parameter_count

WIDE = {"rtmdet": "cspnext_s", "yolox": "cspdarknet_s", "rt_detr": "rt_detr_resnet50", "d_fine": "hgnet_v2_b4"}
OWN = {"lw_detr": "lw_detr_vit", "rf_detr": "rf_detr_dinov2"}


def teacher_of(detector: str, **values: Any) -> Teacher:
    backbone = {"name": WIDE.get(detector, "resnet50")}
    model = ModelConfig.model_validate({"detector": detector, "backbone": backbone, **values})
    return Teacher(Path("/data/teacher.safetensors"), model, ["a", "b"], None)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("detector", [name for name in registry.DETECTORS if name not in OWN])
def test_every_teacher_has_a_smaller_student(detector: str, goal: GoalName) -> None:
    teacher = teacher_of(detector)
    found = ModelConfig.model_validate(plain(student_of(teacher, goal, 2, None)))
    assert found.detector == detector
    assert found.strides == teacher.model.strides
    assert parameter_count(found, 2) < teacher.parameters


def test_a_student_has_the_sizes_of_its_teachers_head() -> None:
    teacher = teacher_of("gfl", strides=[8, 16, 32], head={"channels": 128, "depth": 3}, neck={"channels": 128})
    values = plain(student_of(teacher, "balanced", 2, Path("/data/r18.pth")))
    assert values["head"] == {"channels": 128, "depth": 3}
    assert (values["strides"], values["neck"]) == ([8, 16, 32], {"channels": 128})
    assert values["backbone"] == {"name": "resnet18", "init": {"file": "/data/r18.pth"}}


UNTAUGHT = [
    *({"detector": detector, "backbone": {"name": backbone}} for detector, backbone in OWN.items()),
    {"detector": "faster_rcnn", "backbone": {"name": "mobilenet_v3_large"}, "strides": [32, 32, 64]},
]


@pytest.mark.parametrize("values", UNTAUGHT, ids=lambda values: values["detector"])
def test_a_teacher_whose_levels_are_its_backbones_own_has_no_student(values: dict[str, Any]) -> None:
    teacher = Teacher(Path("t"), ModelConfig.model_validate(values), ["a"], None)
    with pytest.raises(ConfigError, match="no student is proposed"):
        student_of(teacher, "fast", 1, None)


def test_a_teacher_as_small_as_any_student_is_refused() -> None:
    narrow = {"neck": {"channels": 16}, "head": {"channels": 16, "depth": 1}}
    model = ModelConfig.model_validate({"backbone": {"name": "resnet_tiny", "width": 8}, **narrow})
    with pytest.raises(ConfigError, match="no larger than the smallest student"):
        student_of(Teacher(Path("t"), model, ["a"], None), "fast", 1, None)
