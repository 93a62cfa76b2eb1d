"""A student that begins with what fits of its teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from crosskd.data.demo import write_demo
from crosskd.detectors.detector import Detector, build_detector
from crosskd.runs.inherit import inherit
from crosskd.runs.parts import build_parts
from crosskd.runs.train import train
from crosskd.spec.config import ModelConfig, TrainConfig
from crosskd.weights.native import write_weights

CLASSES = 3
NAMES = ["A", "B", "E"]


def section(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "detector": "gfl",
        "backbone": {"name": "resnet_tiny", "width": 8},
        "neck": {"channels": 16},
        "head": {"channels": 16, "depth": 2, "norm_groups": 4},
        "strides": [8, 16, 32],
    }
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return values


def model(seed: int = 0, **changes: Any) -> Detector:
    values = section(**changes)
    torch.manual_seed(seed)
    detector = build_detector(ModelConfig.model_validate(values), CLASSES)
    with torch.no_grad():
        for parameter in detector.parameters():  # no two equal by chance, as zeros and ones would be
            parameter.normal_()
    return detector


def taken(student: dict[str, Any], teacher: dict[str, Any]) -> set[str]:
    """The names that are inherited; checks that these tensors are the teacher's now and the others what they were."""
    ours, theirs = model(0, **student), model(1, **teacher)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    names = inherit(ours, theirs)
    assert names == [name for name in before if name in set(names)]
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name] if name in names else before[name]), name
    return set(names)


def under(*prefixes: str, **changes: Any) -> set[str]:
    return {name for name in model(**changes).state_dict() if name.startswith(prefixes)}


def test_of_an_equal_teacher_it_takes_everything() -> None:
    assert taken({}, {}) == under("")


def test_of_another_backbone_it_takes_no_single_layer() -> None:
    """The stem of a ResNet-18 fits a ResNet-50 by shape; the rest was trained on top of another one."""
    assert taken({}, {"backbone": {"name": "resnet34", "init": "random"}}) == under(
        "neck.output", "neck.lateral", "head"
    )
    wider = taken({}, {"backbone": {"width": 16}})
    assert wider == under("neck.output", "head") | {f"neck.lateral.{level}.bias" for level in range(3)}


@pytest.mark.parametrize("changes", [{"pixels": {"order": "bgr"}}, {"backbone": {"style": "caffe"}}], ids=str)
def test_a_backbone_that_sees_or_strides_otherwise_is_another(changes: dict[str, Any]) -> None:
    assert taken({}, changes) == under("neck", "head")


def test_of_a_wider_and_deeper_head_it_takes_what_fits() -> None:
    shared = under("backbone", "neck")
    assert taken({}, {"head": {"depth": 3}}) == under("")
    wider = taken({}, {"head": {"channels": 32}})
    assert shared < wider
    assert not {name for name in wider if "tower" in name}
    assert wider - shared == {"head.bins", "head.cls.bias", "head.box.bias", *(f"head.scales.{i}" for i in range(3))}


def test_a_box_layer_of_another_code_stays_away() -> None:
    head = {"norm": "group"}
    names = taken({"detector": "fcos"}, {"detector": "atss"})
    assert names == under("backbone", "neck", "head.cls", "head.box_tower", detector="fcos")
    assert "head.box.weight" not in taken({}, {"head": {"reg_max": 8}})
    other = {"detector": "retinanet", "head": head | {"ratios": [1.0, 0.5, 2.0]}}
    assert not {"head.cls.weight", "head.box.weight"} & taken({"detector": "retinanet", "head": head}, other)


def test_a_resumed_student_is_told_the_names_and_keeps_its_weights(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = model(0), model(1, head={"channels": 32})
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with caplog.at_level("INFO", logger="crosskd"):
        names = inherit(ours, theirs, copy=False)
        assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
        assert inherit(ours, theirs) == names
    told = "the student {} the teacher's tensors where they fit: backbone 72 of 72, neck 12 of 12, head 6 of 20"
    assert caplog.messages == [told.format("began with"), told.format("begins with")]


# --- in a training ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    return write_demo(folder, train=4, val=2, size=64, classes=CLASSES, seed=1).model_dump()


def training(data: dict[str, Any], folder: Path, teacher: dict[str, Any], **more: Any) -> tuple[TrainConfig, Detector]:
    """A configuration whose teacher lies in `folder`, and that teacher."""
    detector = model(1, **teacher)
    path = folder / "teacher.safetensors"
    write_weights(path, detector.state_dict(), model=detector.config, classes=NAMES)
    values: dict[str, Any] = {
        "data": data,
        "student": section(),
        "teacher": {"weights": {"file": str(path)}},
        "distill": {"crosskd": {"cut": 1}},
        "init_student": True,
        "augment": {"short_edges": [64], "long_edge": 64},
        "loader": {"workers": 0},
        "batch_size": 2,
        "schedule": {"epochs": 1, "max_steps": 1},
        "evaluation": {"teacher_first": False},
        "device": "cpu",
        "threads": 1,
        "export": None,
        **more,
    }
    return TrainConfig.model_validate(values), detector


@pytest.mark.parametrize("teacher", [{}, {"head": {"channels": 32}}], ids=["as wide", "behind adapters"])
def test_a_training_begins_with_it_and_a_resumed_one_does_not(
    data: dict[str, Any], tmp_path: Path, teacher: dict[str, Any]
) -> None:
    config, theirs = training(data, tmp_path, teacher)
    parts = build_parts(config)
    names = under("") if not teacher else taken({}, teacher)
    for name, value in parts.student.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]) or name not in names, name
    adapters = [name for name in parts.training.trainee.state_dict() if not name.startswith("student.")]
    assert bool(adapters) == bool(teacher)
    manifest = train(config, tmp_path / "run").manifest
    assert set(manifest["init_student"]) == names
    assert manifest["init_student"] == json.loads((tmp_path / "run" / "manifest.json").read_text())["init_student"]

    resumed = build_parts(config, pretrained=False).student.state_dict()
    plain = build_parts(config.model_copy(update={"init_student": False})).student.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in resumed.items())
    assert train(config, tmp_path / "run", resume=tmp_path / "run" / "checkpoints").manifest["init_student"]


def test_without_it_the_manifest_says_none(data: dict[str, Any], tmp_path: Path) -> None:
    config, _ = training(data, tmp_path, {}, init_student=False)
    assert train(config, tmp_path / "run").manifest["init_student"] is None


def test_it_needs_a_teacher(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="init_student needs a teacher"):
        TrainConfig.model_validate({"data": data, "student": section(), "init_student": True})
