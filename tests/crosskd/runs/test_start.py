"""A training that begins with a whole detector's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from crosskd.convert.formats import from_native
from crosskd.data.demo import write_demo
from crosskd.detectors.detector import Detector
from crosskd.errors import ConfigError, CrossKDError, WeightsError
from crosskd.runs.parts import build_parts
from crosskd.runs.start import begin
from crosskd.runs.train import train
from crosskd.spec.config import FileRef, JobRef, ModelConfig, StudentConfig, TrainConfig
from crosskd.spec.weights.start import misfits
from crosskd.weights.native import read_weights, write_weights
from tests.support import small

BCCD = Path(__file__).parents[2] / "data" / "bccd"
CLASSES = ["cat", "dog", "eel"]
R18 = {"name": "resnet18", "width": 8, "init": "random"}


def detector(seed: int, classes: int = 3, **options: Any) -> Detector:
    return small.detector(seed, classes=classes, backbone=R18, **options)


def saved(model: Detector, path: Path, names: list[str] = CLASSES, form: str = "native") -> FileRef:
    if form == "native":
        write_weights(path, model.state_dict(), model=model.config, classes=names)
    elif form == "module":
        meta = {"crosskd": {"model": model.config.model_dump_json(), "classes": json.dumps(names)}}
        torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "meta": meta}, path)
    else:
        state = from_native(model.state_dict(), "mmdet", model.config)
        torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": tuple(names)}}}, path)
    return FileRef(file=str(path))


def rows(model: Detector, place: int) -> torch.Tensor:
    """The weights of one class, of every anchor."""
    weight = model.head.cls.weight
    return weight.unflatten(0, (model.config.anchors_per_cell, -1))[:, place]


@pytest.mark.parametrize("kind", ["gfl", "retinanet", "fcos"])
@pytest.mark.parametrize("form", ["native", "module", "mmdet"])
def test_classes_keep_their_rows_by_name(tmp_path: Path, kind: str, form: str) -> None:
    options: dict[str, Any] = {"detector": kind}
    if kind == "fcos" and form == "mmdet":  # as such a file is recognised
        options |= {"backbone": {**R18, "style": "caffe", "norm_frozen": True}}
        options["pixels"] = {"order": "bgr", "mean": [102.9801, 115.9465, 122.7717], "std": [1.0, 1.0, 1.0]}
    teacher, student = (small.detector(seed, **{"backbone": R18, **options}) for seed in (1, 2))
    fresh = {name: value.clone() for name, value in student.state_dict().items()}
    init = saved(teacher, tmp_path / ("x.safetensors" if form == "native" else "x.pth"), form=form)
    told = begin(student, init, ["eel", "newt", "cat"], None)
    assert told["classes"] == {"kept": ["eel", "cat"], "new": ["newt"], "left": ["dog"]}
    assert torch.equal(rows(student, 0), rows(teacher, 2))
    assert torch.equal(rows(student, 2), rows(teacher, 0))
    assert torch.equal(rows(student, 1).flatten(), fresh["head.cls.weight"].unflatten(0, (-1, 3))[:, 1].flatten())
    for name, value in teacher.state_dict().items():
        assert name.startswith("head.cls.") or torch.equal(student.state_dict()[name], value), name
    assert (told["new_tensors"], told["detector"]) == ([], kind)
    assert all(first == second for first, second in told["taken"].values())


def test_of_another_detector_the_backbone_and_the_neck_are_taken(tmp_path: Path) -> None:
    teacher, student = detector(1, detector="gfl"), detector(2, detector="atss")
    fresh = {name: value.clone() for name, value in student.state_dict().items()}
    told = begin(student, saved(teacher, tmp_path / "x.safetensors"), CLASSES, None)
    state, theirs = student.state_dict(), teacher.state_dict()
    for name, value in state.items():
        assert torch.equal(value, fresh[name] if name.startswith("head.") else theirs[name]), name
    assert told["taken"]["head"][0] == 0
    assert told["classes"]["new"] == CLASSES
    assert all(name.startswith("head.") for name in [*told["new_tensors"], *told["left_out"]])


def test_another_box_code_begins_anew(tmp_path: Path) -> None:
    teacher, student = detector(1, detector="fcos"), detector(2, detector="fcos", head={"norm_on_bbox": True})
    told = begin(student, saved(teacher, tmp_path / "x.safetensors"), CLASSES, None)
    assert "head.box.weight" in told["new_tensors"]
    assert told["classes"]["kept"] == CLASSES
    assert told["differences"] == ["head/norm_on_bbox is False there, True here"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": {**R18, "width": 16}}, r"width is 8.*Set `student\.backbone\.width` to 8"),
        ({"backbone": {**R18, "name": "resnet34"}}, r"Set `student\.backbone\.name` to resnet18"),
        ({"pixels": {"order": "bgr"}}, r"Set `student\.pixels\.order` to rgb"),
    ],
)
def test_another_backbone_is_refused_with_the_knob_to_set(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    init = saved(detector(1), tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=said) as caught:
        begin(small.detector(2, **{"backbone": R18, **options}), init, CLASSES, None)
    assert caught.value.where.startswith("/student/")


DETR = {"detector": "d_fine", "backbone": {"name": "hgnet_v2_b0", "width": 8, "init": "random"}}
SIZES = {"width": 32, "heads": 4, "feedforward": 16, "decoder_layers": 1, "queries": 5, "level_points": [3, 6, 3]}


@pytest.mark.parametrize(
    ("sizes", "knob", "told"),
    [
        ({"heads": 8}, "heads", "heads is 4, and the student's is 8"),
        ({"reg_scale": 8.0}, "reg_scale", "reg_scale is 4.0, and the student's is 8.0"),
        ({"level_points": None}, "level_points", "[3, 6, 3], and the student's is [4, 4, 4]"),  # as many in all
        ({"level_points": [3, 3, 3]}, "", ""),  # tensors of other shapes begin anew
        ({"width": 64, "heads": 8}, "", ""),
        ({"queries": 9, "dropout": 0.1}, "", ""),
    ],
)
def test_a_detr_whose_tensors_fit_and_compute_something_else_is_refused(
    sizes: dict[str, Any], knob: str, told: str
) -> None:
    found, student = (ModelConfig.model_validate({**DETR, "detr": SIZES | more}) for more in ({}, sizes))
    faults = misfits(student, found)
    assert [place for place, _, _ in faults] == ([f"/detr/{knob}"] if knob else [])
    assert all(told in what for _, what, _ in faults)


def test_what_is_no_whole_detector_is_refused(tmp_path: Path) -> None:
    torch.save(detector(1).backbone.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(CrossKDError, match=r"goes to `backbone\.init`"):
        begin(detector(2), FileRef(file=str(tmp_path / "backbone.pth")), CLASSES, None)
    model = detector(1)
    state = {name: value for name, value in model.state_dict().items() if name != "neck.output.1.bias"}
    write_weights(tmp_path / "x.safetensors", state, model=model.config, classes=CLASSES)
    with pytest.raises(WeightsError, match=r"no whole gfl.*1 missing \(neck\.output\.1\.bias\)") as caught:
        begin(detector(2), FileRef(file=str(tmp_path / "x.safetensors")), CLASSES, None)
    assert caught.value.where == "/student/init"
    with pytest.raises(ConfigError, match="not at hand here"):
        begin(detector(2), JobRef(job="a" * 32), CLASSES, None)


def test_a_file_that_names_no_classes_keeps_all_but_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(detector(1).state_dict(), tmp_path / "x.pth")
    told = begin(detector(2), FileRef(file=str(tmp_path / "x.pth")), CLASSES, None)
    assert told["classes"] == {"kept": [], "new": CLASSES, "left": []}
    assert "the class layer begins anew" in caplog.text


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    data = write_demo(tmp_path / "data", train=4, val=2, size=64, classes=3, seed=1).model_dump()
    return {
        "data": {**data, "classes": ["A", "B", "E"]},
        "student": small.config().model_dump(),
        "augment": {"short_edges": [64], "long_edge": 64},
        "loader": {"workers": 0},
        "batch_size": 2,
        "schedule": {"max_steps": 1},
        "device": "cpu",
        "threads": 1,
        "export": None,
    }


def test_a_run_begins_with_it_and_its_manifest_says_so(tmp_path: Path, config: dict[str, Any]) -> None:
    first = small.detector(5)
    init = saved(first, tmp_path / "x.safetensors", ["E", "A", "X"])
    checked = TrainConfig.model_validate(config | {"student": config["student"] | {"init": init.model_dump()}})
    began = build_parts(checked).student
    assert torch.equal(rows(began, 0), rows(first, 1))
    assert torch.equal(began.state_dict()["neck.lateral.0.weight"], first.state_dict()["neck.lateral.0.weight"])
    result = train(checked, tmp_path / "run")
    assert result.manifest["student_init"]["classes"] == {"kept": ["A", "E"], "new": ["B"], "left": ["X"]}
    metadata = read_weights(result.last_weights)[1]
    assert ModelConfig.model_validate_json(metadata["model"]) == checked.student.model  # no trace of the file's path
    again = train(checked, tmp_path / "run", resume=tmp_path / "run" / "checkpoints")
    assert again.manifest["student_init"] == result.manifest["student_init"]


def test_a_fine_tuned_backbone_counts_as_pretrained() -> None:
    plain = StudentConfig.model_validate({"backbone": {"name": "resnet18"}, "init": {"file": "x.pth"}})
    assert (plain.backbone.init, plain.backbone.frozen_stages, plain.backbone.norm_eval) == ("random", 1, True)
    assert StudentConfig.model_validate(plain.model_dump()) == plain
    model = plain.model
    assert StudentConfig.model_validate(model).model == model
    assert "init" not in StudentConfig.model_validate({"backbone": {"name": "resnet18"}}).model_dump()
    chosen = {"name": "resnet18", "frozen_stages": -1, "norm_eval": False}
    free = StudentConfig.model_validate({"backbone": chosen, "init": {"job": "x"}})
    assert (free.backbone.frozen_stages, free.backbone.norm_eval) == (-1, False)


@pytest.mark.parametrize("backbone", ["imagenet", {"file": "y.pth"}])
def test_two_origins_contradict_each_other(backbone: Any) -> None:
    with pytest.raises(ValidationError, match=r"leave `backbone\.init` out"):
        StudentConfig.model_validate({"backbone": {"name": "resnet18", "init": backbone}, "init": {"file": "x.pth"}})


@pytest.mark.slow
def test_a_fine_tuned_start_beats_a_random_one_in_the_same_steps(tmp_path: Path) -> None:
    """On real images (a tenth of BCCD), from a pre-training on the drawn ones of the demo set: no class in common.

    In few steps: with twice as many the random start has caught up, so little do drawn glyphs tell of blood cells.
    """

    def values(data: dict[str, Any], batches: int, steps: int, **student: Any) -> TrainConfig:
        base = {
            "data": data,
            "student": {**small.config().model_dump(), **student},
            "augment": {"short_edges": [96], "long_edge": 128},
            "loader": {"workers": 0},
            "batch_size": 8,
            "schedule": {"epochs": steps // batches, "warmup_steps": 10, "decay": "cosine"},
            "optimizer": {"name": "adamw", "lr": 2e-3, "base_batch": None, "weight_decay": 0.05},
            "clip_norm": 10.0,
            "evaluation": {"every_epochs": 1000},
            "device": "cpu",
            "threads": 1,
            "export": None,
        }
        return TrainConfig.model_validate(base)

    demo = write_demo(tmp_path / "demo", train=120, val=10, size=96, classes=4, seed=1).model_dump()
    bccd = {
        split: {"annotations": str(BCCD / f"{split}.json"), "images": str(BCCD / "images")}
        for split in ("train", "val")
    }
    first = train(values(demo, 15, 450), tmp_path / "first")
    init = {"init": {"file": str(first.last_weights)}}
    tuned = train(values(bccd, 3, 30, **init), tmp_path / "tuned")
    fresh = train(values(bccd, 3, 30), tmp_path / "fresh")
    assert tuned.manifest["student_init"]["classes"]["kept"] == []
    assert tuned.best_ap > 1.25 * fresh.best_ap > 0
