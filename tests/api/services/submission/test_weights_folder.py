"""Folders of transformers in a specification: what they say is taken, told, and not to be contradicted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crosskd.commands.weights import tell_notes
from crosskd.convert.convert import prepare
from crosskd.detectors.detector import build_detector
from crosskd.errors import ConfigError
from crosskd.runs.start import begin
from crosskd.runs.teacher import load_teacher
from crosskd.spec.config import AugmentConfig, FileRef, ModelConfig, TeacherConfig
from tests.support import library_folders
from tests.support.databases import ONE_DATABASE
from tests.support.specs import CLASSES, Post, errors

DETR: dict[str, Any] = {
    "detector": "rt_detr",
    "backbone": {"name": "rt_detr_resnet_tiny", "width": 8},
    "detr": {"width": 32, "heads": 4, "feedforward": 16, "decoder_layers": 1, "queries": 5},
}

LIGHT: dict[str, Any] = {
    "detector": "lw_detr",
    "backbone": {
        "name": "lw_detr_vit",
        "vit": {"width": 16, "heads": 2, "windows": 2, "maps": [1, 2], "window_blocks": [0], "image_side": 32},
    },
    "detr": {"width": 32, "heads": 4, "cross_heads": 4, "feedforward": 16, "decoder_layers": 1, "queries": 5}
    | {"groups": 2},
}


@ONE_DATABASE
@pytest.mark.parametrize("sizes", [DETR, LIGHT], ids=lambda sizes: sizes["detector"])
def test_a_folder_of_transformers_is_a_teacher_and_a_start(resolve: Post, root: Path, sizes: dict[str, Any]) -> None:
    model = ModelConfig.model_validate(sizes)
    library_folders.craft(root / "hub", model, [*CLASSES, "more"])
    there = {"file": str(root / "hub")}
    answer = resolve("distill", student=sizes, teacher={"weights": {"file": "hub"}})
    assert answer.status_code == 200, answer.text
    teacher = answer.json()["spec"]["teacher"]
    assert teacher["weights"] == there
    assert teacher["classes"] == [*CLASSES, "more"]
    assert ModelConfig.model_validate(teacher["model"]) == model

    started = resolve("train", student=sizes | {"init": {"file": "hub"}}, teacher=None)
    assert started.status_code == 200, started.text
    assert started.json()["spec"]["student"]["init"] == there
    note = next(note for note in started.json()["notes"] if "classes by name" in note)
    assert "1 left (more)" in note
    # What the training then takes is what was told: folders have no counters of batches, and detectors do.
    begun = begin(build_detector(model, len(CLASSES), pretrained=False), FileRef(**there), CLASSES, None)
    for part, (taken, count) in begun["taken"].items():
        assert f"{part} {taken} of {count} tensors" in note
    assert f"{len(begun['left_out'])} tensors of the file are left out" in note

    # A file in it is no checkpoint by itself, and a folder is no backbone.
    alone = errors(resolve("distill", student=sizes, teacher={"weights": {"file": "hub/model.safetensors"}}))
    assert "stand in the config.json beside it" in alone["/spec/teacher/weights/file"]
    backbone = sizes | {"backbone": {**sizes["backbone"], "init": {"file": "hub"}}}
    assert (
        "is not a file" in errors(resolve("train", student=backbone, teacher=None))["/spec/student/backbone/init/file"]
    )
    (root / "hub" / "config.json").write_text(
        json.dumps({"model_type": sizes["detector"], "auto_map": {"AutoConfig": "x.Y"}})
    )
    for found, place in (
        (resolve("distill", student=sizes, teacher={"weights": {"file": "hub"}}), "/spec/teacher/weights/file"),
        (resolve("train", student=sizes | {"init": {"file": "hub"}}, teacher=None), "/spec/student/init/file"),
    ):
        assert "brings code of its own (auto_map)" in errors(found)[place]


@ONE_DATABASE
def test_what_is_good_to_know_of_a_folder_is_told_at_submission(
    client: TestClient, resolve: Post, root: Path, spec: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    library_folders.craft(root / "hub", ModelConfig.model_validate(DETR), CLASSES)
    (root / "hub" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "size": {"height": 9}}))
    config = json.loads((root / "hub" / "config.json").read_text())
    (root / "hub" / "config.json").write_text(json.dumps({**config, "weight_loss_bbox": 2.0}))
    told = [
        "weight_loss_bbox is 2.0 there; this project trains with 5.0",
        'preprocessor_config.json has size {"height": 9}, which is not taken: by default images are evaluated at '
        "800 x 1333",
    ]
    hub = {"file": "hub"}
    evaluated = {"weights": hub, "data": {"val": spec["data"]["val"]}}
    for where, answer in (
        ("teacher.weights", resolve("distill", student=DETR, teacher={"weights": hub})),
        ("student.init", resolve("train", student=DETR | {"init": hub}, teacher=None)),
        ("weights", client.post("/jobs?dry_run=1", json={"kind": "evaluate", "name": "n", "spec": evaluated})),
    ):
        assert answer.status_code == 200, answer.text
        assert [note for note in answer.json()["notes"] if note.startswith(f"{where}: ")][:2] == [
            f"{where}: {note}" for note in told
        ]
    tell_notes(root / "hub", root / "none.safetensors")
    assert capsys.readouterr().err == "".join(f"note: hub: {note}\n" for note in told)


@ONE_DATABASE
@pytest.mark.parametrize(("kind", "of"), [("evaluate", "data"), ("export", "")])
def test_classes_of_a_folder_that_stand_for_nothing_are_left_out(
    client: TestClient, root: Path, spec: Any, kind: str, of: str
) -> None:
    named = ["N/A", CLASSES[0], "N/A", *CLASSES[1:]]
    library_folders.craft(root / "hub", ModelConfig.model_validate(DETR), named)
    more = {"data": {"val": spec["data"]["val"]}} if of else {"images": spec["data"]["val"]["images"]}
    body = {"kind": kind, "name": "n", "spec": {"weights": {"file": "hub"}, **more}}
    answer = client.post("/jobs?dry_run=1", json=body)
    assert answer.status_code == 200, answer.text
    assert "2 of its 4 classes stand for nothing and are left out: N/A 0, N/A 2" in answer.json()["notes"][0]
    stored = answer.json()["spec"]
    assert (stored[of] if of else stored)["classes"] == CLASSES
    assert client.post("/jobs?dry_run=1", json={**body, "spec": stored}).json() == answer.json()
    if not of:  # all of them, where they are asked for
        every = ["N/A 0", CLASSES[0], "N/A 2", *CLASSES[1:]]
        again = client.post("/jobs?dry_run=1", json={**body, "spec": {**body["spec"], "classes": every}})
        assert again.json()["spec"]["classes"] == every


@ONE_DATABASE
@pytest.mark.parametrize(
    ("knobs", "place", "values"),
    [
        ({"detr": {"heads": 8}}, "detr/heads", "heads` is 8, and config.json of hub says 4"),
        ({"detr": {"queries": 6}}, "detr/queries", "queries` is 6, and config.json of hub says 5"),
        ({"detector": "rt_detr_v2"}, "detector", "is rt_detr_v2, and config.json of hub says rt_detr"),
        ({"backbone": {"width": 16}}, "backbone/width", "width` is 16, and config.json of hub says 8"),
        ({"pixels": {"mean": [1, 2, 3]}}, "pixels/mean", "preprocessor_config.json of hub says [0.0, 0.0, 0.0]"),
        ({"detr": {"dropout": 0.2, "denoising": 7, "encoder_width": 32}, "postprocess": {"max_detections": 9}}, "", ""),
    ],
)
def test_a_model_that_a_folder_contradicts_is_refused_with_both_values(
    resolve: Post, root: Path, knobs: dict[str, Any], place: str, values: str, caplog: pytest.LogCaptureFixture
) -> None:
    library_folders.craft(root / "hub", ModelConfig.model_validate(DETR), CLASSES)
    plain = DETR | {"pixels": {"mean": [0, 0, 0], "std": [255, 255, 255]}}
    merged = {name: {**plain.get(name, {}), **told} if isinstance(told, dict) else told for name, told in knobs.items()}
    written = plain | merged
    answer = resolve("distill", student=DETR, teacher={"weights": {"file": "hub"}, "model": written})
    teacher = TeacherConfig(weights=FileRef(file=str(root / "hub")), model=ModelConfig.model_validate(written))
    config = SimpleNamespace(teacher=teacher, distill=None, augment=AugmentConfig(keep_ratio=False))
    if not place:
        assert answer.status_code == 200, answer.text
        assert load_teacher(config, CLASSES).config == teacher.model  # type: ignore[arg-type]
        assert "those that the teacher was trained on: augment.keep_ratio is false here, true there" in caplog.text
        return
    assert values in errors(answer)[f"/spec/teacher/model/{place}"]
    with pytest.raises(ConfigError, match=re.escape(values)) as caught:
        load_teacher(config, CLASSES)  # type: ignore[arg-type]
    assert caught.value.where == f"/teacher/model/{place}"
    with pytest.raises(ConfigError, match=re.escape(values)):
        prepare(root / "hub", "native", model=teacher.model)
