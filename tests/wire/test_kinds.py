"""The kind of a job, told by its specification."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crosskd.spec.config import EvaluateConfig, ExportConfig, TrainConfig
from crosskd.spec.data.import_config import ImportConfig
from wire.jobs import JobCreate
from wire.kinds import AmbiguousKind, kind_of, known_or_inferred
from wire.presets import presets

SPLIT = {"annotations": "a.json", "images": "a"}
DATA = {"train": SPLIT, "val": SPLIT}
STUDENT = {"backbone": {"name": "resnet18"}}
WEIGHTS = {"job": "0" * 32}
TEACHER = {"weights": WEIGHTS}
TRAIN: dict[str, Any] = {"data": DATA, "student": STUDENT}
EVALUATE: dict[str, Any] = {"weights": WEIGHTS, "data": {"val": SPLIT}}


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (TRAIN, "train"),
        (TRAIN | {"teacher": None, "distill": None}, "train"),
        ({"data": DATA}, "train"),
        ({"student": STUDENT}, "train"),
        (TRAIN | {"teacher": TEACHER}, "distill"),
        (TRAIN | {"distill": {"pkd": {}}}, "distill"),
        (EVALUATE, "evaluate"),
        ({"weights": WEIGHTS, "batch_size": 4}, "evaluate"),
        ({"weights": WEIGHTS}, "export"),
        ({"weights": WEIGHTS, "data": None}, "export"),
        ({"opset": 18}, "export"),
        ({"source": "/data/cells", "images": "/data/cells/images"}, "import"),
        (ImportConfig(source="/data/cells"), "import"),
        (TrainConfig.model_validate(TRAIN), "train"),
        (TrainConfig.model_validate(TRAIN | {"teacher": TEACHER}), "distill"),
        (EvaluateConfig.model_validate(EVALUATE), "evaluate"),
        (ExportConfig.model_validate({"weights": WEIGHTS}), "export"),
        ("no section", "train"),  # and refused for that
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(dict(value)),
)
def test_sections_tell_it(spec: Any, kind: str) -> None:
    assert kind_of(spec) == kind
    assert known_or_inferred(None, spec) == known_or_inferred("trian", spec) == kind
    assert known_or_inferred("export", spec) == "export"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "it has none of data, student, teacher, distill, weights, source; give `kind`"),
        ({"device": "cpu"}, "it has none of data"),
        ({"studnet": STUDENT}, "write `student` for `studnet`, or give `kind`"),
        (TRAIN | {"weights": WEIGHTS}, r"a training \(student\) and of a job on finished weights \(weights\); remove"),
        (TRAIN | {"source": "/data"}, r"an import \(source\) and of another job \(student\); remove"),
        (EVALUATE | {"opset": 18}, r"an evaluation \(data\) and of an export \(opset\); remove"),
    ],
    ids=str,
)
def test_what_does_not_tell_it_says_why(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(AmbiguousKind, match=why):
        kind_of(spec)
    assert known_or_inferred(None, spec) is None
    with pytest.raises(ValidationError, match=why) as caught:
        JobCreate.model_validate({"name": "x", "spec": spec})
    assert [fault["loc"] for fault in caught.value.errors()] == [("kind",)]


def test_a_job_needs_no_kind() -> None:
    schema = JobCreate.model_json_schema()
    assert "kind" not in schema["required"]
    assert JobCreate.model_validate({"name": "x", "spec": EVALUATE}).kind == "evaluate"
    with pytest.raises(ValidationError) as caught:
        JobCreate.model_validate({"name": "x"})
    assert [fault["loc"] for fault in caught.value.errors()] == [("spec",)]


def test_presets_have_the_kind_that_is_told() -> None:
    assert {preset.kind for preset in presets()} == {"train", "distill"}
    assert all(kind_of(preset.spec) == preset.kind for preset in presets())
