"""How images are resized and read: as the teacher was trained, from the training to every later use of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.convert.convert import prepare
from crosskd.convert.mmdet import to_mmdet
from crosskd.data.demo import write_demo
from crosskd.detectors.detector import build_detector
from crosskd.engine.checkpoint import list_checkpoints, read_checkpoint, require_same_run
from crosskd.errors import WeightsError
from crosskd.runs.evaluate import as_evaluation, evaluate_weights
from crosskd.runs.image_settings import with_image_settings
from crosskd.runs.start import begin
from crosskd.runs.train import train
from crosskd.spec.config import ModelConfig
from crosskd.weights.description import describe
from crosskd.weights.native import write_weights
from tests.support import small
from tests.support.trainings import CLASSES, MODEL, config, distilled

TEACHER = ModelConfig.model_validate(MODEL)
RECORDED = {"val_short_edge": 64, "long_edge": 96, "pad_to": 32}
Paths = dict[str, Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    return write_demo(folder, train=4, val=4, size=256, classes=len(CLASSES), seed=1).model_dump()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """One detector in files of several origins, by what they say."""
    folder = tmp_path_factory.mktemp("teachers")
    model = small.detector(3, **{key: value for key, value in MODEL.items() if key != "backbone"})
    state, paths = model.state_dict(), {}

    def ours(name: str, **extra: Any) -> None:
        paths[name] = folder / f"{name}.safetensors"
        recorded = {"augment": json.dumps(extra)} if extra else {}
        write_weights(paths[name], state, model=model.config, classes=CLASSES, extra=recorded)

    ours("from_before", **RECORDED)
    ours("silent")
    ours("antialiased", **RECORDED, antialias=True)
    ours("plain", **RECORDED, antialias=False, sixteen_bit="own_range")
    paths["mmdet"] = folder / "mmdet.pth"
    renamed = {to_mmdet(key, "gfl"): tensor for key, tensor in state.items()}
    torch.save({"meta": {"CLASSES": tuple(CLASSES)}, "state_dict": renamed}, paths["mmdet"])
    paths["converted"] = folder / "converted.safetensors"
    prepare(paths["mmdet"], "native", model=model.config).write(paths["converted"])
    paths["away"] = folder / "away.pth"
    prepare(paths["antialiased"], "mmdet").write(paths["away"])
    return paths


@pytest.mark.parametrize(
    ("teacher", "antialias", "sixteen_bit"),
    [
        ("from_before", True, "high_byte"),
        ("silent", True, "high_byte"),
        ("antialiased", True, "high_byte"),
        ("plain", False, "own_range"),
        ("mmdet", False, "high_byte"),
        ("converted", False, "high_byte"),
        ("away", True, "high_byte"),  # our own, in the form of MMDetection
    ],
)
def test_by_default_images_are_as_the_teacher_was_trained(
    data: dict[str, Any], teachers: Paths, teacher: str, antialias: bool, sixteen_bit: str
) -> None:
    filled = with_image_settings(distilled(data, teachers[teacher])).augment
    assert (filled.antialias, filled.sixteen_bit) == (antialias, sixteen_bit)
    for given in (True, False):
        chosen = distilled(data, teachers[teacher], augment={"antialias": given})
        assert with_image_settings(chosen).augment.antialias is given


@pytest.mark.parametrize(
    ("start", "teacher", "antialias", "told"),
    [
        ("plain", None, False, []),
        ("mmdet", None, False, []),
        ("silent", None, True, []),
        ("antialiased", "mmdet", False, ["augment.antialias is false here, true there"]),
        (
            "plain",
            "antialiased",
            True,
            ["augment.antialias is true here, false there", "augment.sixteen_bit is high_byte here, own_range there"],
        ),
        ("mmdet", "converted", False, []),
    ],
)
def test_a_start_from_a_detector_takes_its_settings_unless_a_teacher_decides(
    data: dict[str, Any],
    teachers: Paths,
    caplog: pytest.LogCaptureFixture,
    start: str,
    teacher: str | None,
    antialias: bool,
    told: list[str],
) -> None:
    given = {**MODEL, "init": {"file": str(teachers[start])}}
    open_one = distilled(data, teachers[teacher], student=given) if teacher else config(data, student=given)
    filled = with_image_settings(open_one)
    assert filled.augment.antialias is antialias
    assert filled.student.init is not None
    begun = begin(
        build_detector(TEACHER, 3, pretrained=False), filled.student.init, CLASSES, None, augment=filled.augment
    )
    assert begun["image_differences"] == told
    warned = f"images are read otherwise than those that {teachers[start].name} was trained on: {'; '.join(told)}"
    assert (warned in caplog.text) == bool(told)


def test_without_a_teacher_as_ever_and_a_resume_goes_on_as_it_began(data: dict[str, Any], teachers: Paths) -> None:
    alone = with_image_settings(config(data)).augment
    assert (alone.antialias, alone.sixteen_bit) == (True, "high_byte")
    before: dict[str, Any] = {"augment": {"flip": 0.5}}  # settings of a checkpoint from before there was a choice
    resumed = with_image_settings(distilled(data, teachers["mmdet"]), saved=before).augment
    assert resumed.antialias is True
    read = {"antialias": True, "sixteen_bit": "high_byte", "keep_ratio": True}
    require_same_run(before, {"augment": {"flip": 0.5} | read})
    now = {"augment": {"antialias": False, "sixteen_bit": "own_range"}}
    assert with_image_settings(config(data), saved=now).augment.antialias is False


def test_a_student_takes_it_along_into_its_files(data: dict[str, Any], teachers: Paths, tmp_path: Path) -> None:
    """Manifest, weights, checkpoint: whoever evaluates, converts or resumes them sees the same pixels."""
    settings = distilled(data, teachers["converted"], schedule={"max_steps": 2})
    result = train(settings, tmp_path / "run")
    assert result.manifest["config"]["augment"]["antialias"] is False
    assert "as the teacher was trained: augment.antialias: false" in (tmp_path / "run" / "log.txt").read_text()
    assert describe(result.last_weights).image_settings()["antialias"] is False

    checkpoint = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    assert read_checkpoint(checkpoint)["settings"]["augment"]["antialias"] is False
    prepare(checkpoint, "native").write(tmp_path / "student.safetensors")
    for path in (result.last_weights, tmp_path / "student.safetensors"):
        found = evaluate_weights(as_evaluation(config(data), path))  # the configuration leaves it open
        assert found.finished.scale.antialias is False
        assert found.evaluation.metrics == result.manifest["evaluations"][-1]["metrics"]
    other = as_evaluation(config(data, augment={"antialias": True}), result.last_weights)
    assert evaluate_weights(other).finished.scale.antialias is True


def test_an_mmdetection_file_is_evaluated_on_plain_pixels(data: dict[str, Any], teachers: Paths) -> None:
    found = evaluate_weights(as_evaluation(config(data, student=TEACHER.model_dump()), teachers["mmdet"]))
    assert found.finished.scale.antialias is False
    assert found.finished.augment.antialias is False


def test_a_conversion_says_what_it_knows(teachers: Paths) -> None:
    known = describe(teachers["converted"])
    assert known.image_settings() == {"antialias": False, "sixteen_bit": "high_byte"}
    assert known.scale() is None  # at which it was evaluated, nobody says
    (told,) = [note for note in prepare(teachers["mmdet"], "native", model=TEACHER).report.notes if "alias" in note]
    assert told == "its images are resized without antialiasing, as MMDetection does"
    (warned,) = [note for note in prepare(teachers["antialiased"], "mmdet").report.notes if "alias" in note]
    assert warned == "it was trained on images resized with antialiasing, which MMDetection resizes without"
    assert not [note for note in prepare(teachers["silent"], "mmdet").report.notes if "alias" in note]


@pytest.mark.parametrize("recorded", ['{"antialias": "perhaps"}', '{"sixteen_bit": 3}', "[]", "no JSON"])
def test_what_nobody_can_read_is_refused(tmp_path: Path, recorded: str) -> None:
    model = small.detector(3)
    path = tmp_path / "w.safetensors"
    write_weights(path, model.state_dict(), model=model.config, classes=CLASSES, extra={"augment": recorded})
    with pytest.raises(WeightsError, match="describes its"):
        describe(path).image_settings()
