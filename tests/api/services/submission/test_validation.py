"""What a posted specification becomes, and every way to get it wrong. Teachers: test_teachers.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.api_client import HERE
from tests.support.databases import ONE_DATABASE
from tests.support.specs import CLASSES, TINY, Post, errors, write_weights

# --- what is filled in -----------------------------------------------------------------------------------------------


@ONE_DATABASE
def test_every_default_is_filled_in(resolve: Post, root: Path) -> None:
    answer = resolve(augment={"short_edges": [96, 128]}, batch_size=4)
    assert answer.status_code == 200, answer.text
    spec = answer.json()["spec"]
    assert spec["version"] == 1
    assert spec["data"]["classes"] == CLASSES
    assert spec["data"]["train"] == {"annotations": str(root / "instances.json"), "images": str(root / "images")}
    assert spec["augment"]["val_short_edge"] == 128
    assert spec["evaluation"]["batch_size"] == 4
    assert spec["student"]["backbone"] == {
        "name": "resnet_tiny", "width": 16, "style": "pytorch", "init": "random", "frozen_stages": -1,
        "norm_eval": False, "norm_frozen": False, "norm_eps": None, "drop_path": 0.0,
    }  # fmt: skip
    assert spec["schedule"]["epochs"] == 12


def test_resolving_twice_changes_nothing(resolve: Post, root: Path, client: TestClient) -> None:
    write_weights(root / "teacher.safetensors")
    first = resolve("distill", student=TINY, teacher={"weights": {"file": "teacher.safetensors"}}).json()
    body = {"kind": "distill", "name": "n", "spec": first["spec"]}
    assert client.post("/jobs?dry_run=true", json=body).json() == first


@ONE_DATABASE
def test_relative_paths_and_links_become_real_ones(resolve: Post, root: Path) -> None:
    (root / "link.json").symlink_to(root / "instances.json")
    answer = resolve(data__val={"annotations": "link.json", "images": "images/../images"})
    val = answer.json()["spec"]["data"]["val"]
    assert val == {"annotations": str(root / "instances.json"), "images": str(root / "images")}


@ONE_DATABASE
def test_classes_may_be_chosen_and_ordered(resolve: Post) -> None:
    assert resolve(data__classes=["square", "ring"]).json()["spec"]["data"]["classes"] == ["square", "ring"]
    assert resolve(data__classes=["square"]).json()["spec"]["data"]["classes"] == ["square"]


# --- paths and data --------------------------------------------------------------------------------------------------


@ONE_DATABASE
@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", "images/../../../../etc/passwd", "out.json"])
def test_paths_stay_in_the_roots(resolve: Post, root: Path, path: str) -> None:
    (root / "out.json").symlink_to("/etc/passwd")
    found = errors(resolve(data__train={"annotations": path, "images": path}, student__backbone__init={"file": path}))
    pointers = {"/spec/data/train/annotations", "/spec/data/train/images", "/spec/student/backbone/init/file"}
    assert found.keys() == pointers
    assert all("outside the data roots" in detail for detail in found.values())


@ONE_DATABASE
def test_paths_that_lead_to_nothing(resolve: Post) -> None:
    found = errors(resolve(data__train={"annotations": "images", "images": "instances.json"}, data__val__images="no"))
    assert "is not a file" in found["/spec/data/train/annotations"]
    assert "is not a folder" in found["/spec/data/train/images"]
    assert "does not exist" in found["/spec/data/val/images"]


@ONE_DATABASE
def test_a_nul_in_a_path(resolve: Post) -> None:
    assert "/spec/data/train/images" in errors(
        resolve(data__train={"annotations": "instances.json", "images": "a\x00"})
    )


@ONE_DATABASE
@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("not json", "not a readable JSON file"),
        ("[]", "the top level must be an object"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_are_no_coco_files(resolve: Post, root: Path, text: str, detail: str) -> None:
    (root / "bad.json").write_text(text)
    answer = resolve(data__val={"annotations": "bad.json", "images": "images"})
    details = [fault["detail"] for fault in answer.json()["errors"]]
    assert any(detail in each and each.startswith("bad.json: ") for each in details), details
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {"/spec/data/val/annotations"}


def test_many_faults_in_a_file_are_counted(resolve: Post, root: Path) -> None:
    coco = json.loads((root / "instances.json").read_text())
    coco["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, -1, float("nan")]} for i in range(50)
    ]
    (root / "bad.json").write_text(json.dumps(coco))
    faults = resolve(data__val={"annotations": "bad.json", "images": "images"}).json()["errors"]
    assert len(faults) == 21
    assert faults[17]["detail"].startswith("bad.json: annotations[17].bbox must be four finite numbers")
    assert faults[20]["detail"] == "bad.json: and 30 more faults"


def write_categories(root: Path, name: str, names: list[str], **more: Any) -> str:
    coco = json.loads((root / "instances.json").read_text()) | more
    coco["categories"] = [{"id": i + 1, "name": category} for i, category in enumerate(names)]
    (root / name).write_text(json.dumps(coco))
    return name


@ONE_DATABASE
def test_classes_that_a_split_lacks(resolve: Post, root: Path) -> None:
    val = {"annotations": write_categories(root, "val.json", ["ring", "dot"]), "images": "images"}
    assert "'dot', 'square'" in errors(resolve(data__val=val))["/spec/data/val/annotations"]
    found = errors(resolve(data__val=val, data__classes=["square"]))
    assert found == {"/spec/data/classes": "the val annotations have no category 'square'"}
    assert resolve(data__val=val, data__classes=["ring"]).status_code == 200


@ONE_DATABASE
def test_a_training_file_without_boxes(resolve: Post, root: Path) -> None:
    train = {"annotations": write_categories(root, "empty.json", CLASSES, annotations=[]), "images": "images"}
    assert "no image has a box" in errors(resolve(data__train=train))["/spec/data/train/annotations"]
    assert resolve(data__train=train, loader={"drop_empty": False}).status_code == 200


def test_a_check_that_takes_too_long(make_settings: Any, spec: dict[str, Any], database_url: str) -> None:
    from api.main import create_app

    with TestClient(create_app(make_settings(coco_check_seconds=1e-6)), **HERE) as client:
        answer = client.post("/jobs", json={"kind": "train", "name": "n", "spec": spec})
        assert "CROSSKD_COCO_CHECK_SECONDS" in answer.json()["errors"][0]["remedy"]
        assert "within 1e-06 s" in errors(answer)["/spec/data/train/annotations"]
        assert client.get("/jobs").json()["items"] == []


def test_too_many_classes_are_told_of_their_file(resolve: Post, root: Path) -> None:
    split = {"annotations": write_categories(root, "many.json", [f"c{i}" for i in range(10_001)]), "images": "images"}
    (found,) = errors(resolve(data__train=split, data__val=split)).items()
    assert found[0] == "/spec/data/train/annotations"
    assert "classes out of it: it has 10001 entries" in found[1]


@ONE_DATABASE
def test_everything_wrong_at_once(resolve: Post) -> None:
    found = errors(
        resolve(
            "distill",
            data__train={"annotations": "/etc/passwd", "images": "no"},
            student__backbone={"name": "resnet_tiny", "init": {"file": "no.pth"}},
            teacher={"weights": {"job": "0" * 32}, "model": TINY | {"strides": [8, 16, 32]}},
        )
    )
    assert found.keys() == {
        "/spec/data/train/annotations",
        "/spec/data/train/images",
        "/spec/student/backbone/init/file",
        "/spec/teacher/weights/job",
        "/spec/student",  # its strides, which nobody sent, are not the teacher's
    }


@ONE_DATABASE
def test_every_fault_at_once(client: TestClient, spec: dict[str, Any], root: Path) -> None:
    """What the model refuses, what the files say and what the pair lacks stand in one answer."""
    spec["student"] = {"backbone": {"name": "resnet19"}}
    spec["data"]["val"] = {**spec["data"]["val"], "images": "../outside"}
    spec["optimizer"] = {"lr": -1}
    spec["surprise"] = 1
    found = errors(client.post("/jobs", json={"kind": "distill", "name": "n", "spec": spec}))
    assert found.keys() == {
        "/spec/student/backbone/name", "/spec/data/val/images", "/spec/optimizer/lr", "/spec/surprise", "/spec/teacher",
    }  # fmt: skip
    spec["student"] = {"backbone": {"name": "resnet18"}, "strides": [8, 16]}
    spec["teacher"] = {"weights": {"job": "0" * 32}}
    found = errors(client.post("/jobs", json={"kind": "distill", "name": "", "spec": spec}))
    assert found.keys() >= {"/name", "/spec/student/strides", "/spec/teacher/weights/job", "/spec/data/val/images"}
    assert client.get("/jobs").json()["items"] == []
