"""The teacher of other projects' files: which classes it has, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.detector import Detector
from crosskd.errors import ConfigError
from crosskd.runs.teacher import load_teacher
from crosskd.spec.config import TrainConfig
from tests.support import small

CLASSES = ["a", "b", "c"]


@pytest.fixture
def original() -> Detector:
    return small.detector(3)


def config(path: Path, **teacher: Any) -> TrainConfig:
    split = {"annotations": "x.json", "images": "x"}
    model = small.config().model_dump()
    return TrainConfig.model_validate(
        {
            "data": {"train": split, "val": split},
            "student": model,
            "teacher": {"weights": {"file": str(path)}, "model": model, **teacher},
        }
    )


def written(original: Detector, path: Path, meta: dict[str, Any]) -> Path:
    """As MMDetection writes a checkpoint."""
    state = {to_mmdet(name, "gfl"): tensor for name, tensor in original.state_dict().items()}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.mark.parametrize("meta", [{"CLASSES": ("c", "a", "b")}, {"dataset_meta": {"classes": ("c", "a", "b")}}])
def test_the_order_in_the_file_counts(original: Detector, tmp_path: Path, meta: dict[str, Any]) -> None:
    teacher = load_teacher(config(written(original, tmp_path / "t.pth", meta)), CLASSES)
    assert torch.equal(teacher.head.cls.weight, original.head.cls.weight[[1, 2, 0]])


def test_a_file_that_says_nothing_has_the_data_s_classes_and_the_log_says_so(
    original: Detector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        teacher = load_teacher(config(written(original, tmp_path / "t.pth", {})), CLASSES)
    assert "t.pth does not name the teacher's classes: taken to be, in this order, ['a', 'b', 'c']" in caplog.text
    caplog.clear()
    load_teacher(config(tmp_path / "t.pth", classes=CLASSES), CLASSES)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert torch.equal(teacher.head.cls.weight, original.head.cls.weight)


def test_classes_of_other_spelling_are_refused_unless_they_are_given(original: Detector, tmp_path: Path) -> None:
    path = written(original, tmp_path / "t.pth", {"CLASSES": ("A", "B", "C")})
    with pytest.raises(ConfigError, match="does not know"):
        load_teacher(config(path), CLASSES)
    teacher = load_teacher(config(path, classes=CLASSES), CLASSES)
    assert torch.equal(teacher.head.cls.weight, original.head.cls.weight)
