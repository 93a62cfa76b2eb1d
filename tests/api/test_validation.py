"""What a posted specification becomes, and every way to get it wrong."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from api.settings import Settings
from crosskd.config import ModelConfig
from crosskd.shapes import expected_shapes
from tests.api.conftest import Worker
from tests.api.test_downloads import upload

TINY = {"backbone": {"name": "resnet_tiny", "width": 8}, "neck": {"channels": 32}, "head": {"channels": 32, "depth": 2}}
CLASSES = ["ring", "square"]
Post = Callable[..., Any]


@pytest.fixture
def root(settings: Settings) -> Path:
    return settings.data_roots[0]


@pytest.fixture
def resolve(client: TestClient, spec: dict[str, Any]) -> Post:
    """Post the spec with changes, dry; changes are written `student__head__depth=3`."""

    def post(kind: str = "train", **changes: Any) -> Any:
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = spec
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        return client.post("/jobs?dry_run=true", json={"kind": kind, "name": "n", "spec": spec})

    return post


def errors(answer: Any) -> dict[str, str]:
    """Pointer -> detail; the answer must be a 422 in which each fault says what to do."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()["errors"]
    assert all(fault["remedy"] for fault in found), found
    return {fault["pointer"]: fault["detail"] for fault in found}


def write_weights(
    path: Path, model_: dict[str, Any] = TINY, classes: list[str] = CLASSES, said: Any = None, **metadata: str
) -> Path:
    """Weights of `model` as the core writes them, under its names and with its metadata.

    With `said`, the metadata says that instead of the classes.
    """
    config = ModelConfig.model_validate(model_)
    own = {
        "format": "crosskd",
        "version": "1",
        "model": config.model_dump_json(),
        "classes": json.dumps(classes if said is None else said),
    }
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(config, len(classes)).items()}
    save_file(tensors, path, {**own, **metadata})
    return path


# --- what is filled in -----------------------------------------------------------------------------------------------


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
        "name": "resnet_tiny", "width": 16, "init": "random", "frozen_stages": -1, "norm_eval": False,
    }  # fmt: skip
    assert spec["schedule"]["epochs"] == 12


def test_resolving_twice_changes_nothing(resolve: Post, root: Path, client: TestClient) -> None:
    write_weights(root / "teacher.safetensors")
    first = resolve("distill", student=TINY, teacher={"weights": {"file": "teacher.safetensors"}}).json()
    body = {"kind": "distill", "name": "n", "spec": first["spec"]}
    assert client.post("/jobs?dry_run=true", json=body).json() == first


def test_relative_paths_and_links_become_real_ones(resolve: Post, root: Path) -> None:
    (root / "link.json").symlink_to(root / "instances.json")
    answer = resolve(data__val={"annotations": "link.json", "images": "images/../images"})
    val = answer.json()["spec"]["data"]["val"]
    assert val == {"annotations": str(root / "instances.json"), "images": str(root / "images")}


def test_classes_may_be_chosen_and_ordered(resolve: Post) -> None:
    assert resolve(data__classes=["square", "ring"]).json()["spec"]["data"]["classes"] == ["square", "ring"]
    assert resolve(data__classes=["square"]).json()["spec"]["data"]["classes"] == ["square"]


# --- paths and data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc/passwd", "images/../../../../etc/passwd", "out.json"])
def test_paths_stay_in_the_roots(resolve: Post, root: Path, path: str) -> None:
    (root / "out.json").symlink_to("/etc/passwd")
    found = errors(resolve(data__train={"annotations": path, "images": path}, student__backbone__init={"file": path}))
    pointers = {"/spec/data/train/annotations", "/spec/data/train/images", "/spec/student/backbone/init/file"}
    assert found.keys() == pointers
    assert all("outside the data roots" in detail for detail in found.values())


def test_paths_that_lead_to_nothing(resolve: Post) -> None:
    found = errors(resolve(data__train={"annotations": "images", "images": "instances.json"}, data__val__images="no"))
    assert "is not a file" in found["/spec/data/train/annotations"]
    assert "is not a folder" in found["/spec/data/train/images"]
    assert "does not exist" in found["/spec/data/val/images"]


def test_a_nul_in_a_path(resolve: Post) -> None:
    assert "/spec/data/train/images" in errors(
        resolve(data__train={"annotations": "instances.json", "images": "a\x00"})
    )


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


def test_classes_that_a_split_lacks(resolve: Post, root: Path) -> None:
    val = {"annotations": write_categories(root, "val.json", ["ring", "dot"]), "images": "images"}
    assert "'dot', 'square'" in errors(resolve(data__val=val))["/spec/data/val/annotations"]
    found = errors(resolve(data__val=val, data__classes=["square"]))
    assert found == {"/spec/data/classes": "the val annotations have no category 'square'"}
    assert resolve(data__val=val, data__classes=["ring"]).status_code == 200


def test_a_training_file_without_boxes(resolve: Post, root: Path) -> None:
    train = {"annotations": write_categories(root, "empty.json", CLASSES, annotations=[]), "images": "images"}
    assert "no image has a box" in errors(resolve(data__train=train))["/spec/data/train/annotations"]
    assert resolve(data__train=train, loader={"drop_empty": False}).status_code == 200


def test_a_check_that_takes_too_long(make_settings: Any, spec: dict[str, Any], database_url: str) -> None:
    from api.main import create_app

    with TestClient(create_app(make_settings(coco_check_seconds=1e-6))) as client:
        answer = client.post("/jobs", json={"kind": "train", "name": "n", "spec": spec})
        assert "CROSSKD_COCO_CHECK_SECONDS" in answer.json()["errors"][0]["remedy"]
        assert "within 1e-06 s" in errors(answer)["/spec/data/train/annotations"]
        assert client.get("/jobs").json()["items"] == []


def test_too_many_classes_break_the_bound_of_the_field(resolve: Post, root: Path) -> None:
    split = {"annotations": write_categories(root, "many.json", [f"c{i}" for i in range(10_001)]), "images": "images"}
    answer = resolve(data__train=split, data__val=split)
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/spec/data/classes"]


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
        "/spec/student/strides",
        "/spec/student/head/channels",
    }


# --- teachers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher_job(post_job: Post, worker: Worker, spec: dict[str, Any]) -> Callable[..., str]:
    """A job that trained `TINY`, finished as told."""

    def make(outcome: str = "succeeded", names: tuple[str, ...] = ("best.safetensors",)) -> str:
        job = str(post_job(spec=spec | {"student": TINY}))
        worker.claim(job)
        for name in names:
            upload(worker, name, b"weights")
        if outcome != "running":
            worker.finish(outcome)
        return job

    return make


def test_a_teacher_that_a_job_made(
    client: TestClient, resolve: Post, teacher_job: Any, spec: dict[str, Any], worker: Worker
) -> None:
    job = teacher_job()
    answer = resolve("distill", student=TINY, teacher={"weights": {"job": job}})
    assert answer.status_code == 200, answer.text
    teacher = answer.json()["spec"]["teacher"]
    assert teacher["weights"] == {"job": job, "checkpoint": "best"}
    assert teacher["classes"] == CLASSES
    assert teacher["model"] == ModelConfig.model_validate(TINY).model_dump(mode="json")
    assert answer.json()["spec"]["distill"]["crosskd"]["cut"] == 2  # published: 3, but these heads have 2
    posted = client.post("/jobs", json={"kind": "distill", "name": "n", "spec": spec}).json()
    reference = worker.claim(posted["id"]).json()["teacher"]
    assert client.get(reference["url"]).content == b"weights"
    assert (reference["name"], reference["size"]) == ("best.safetensors", 7)


@pytest.mark.parametrize(
    ("outcome", "names", "pointer", "detail"),
    [
        ("running", ("best.safetensors",), "job", "is running, not succeeded"),
        ("failed", ("best.safetensors",), "job", "not succeeded"),
        ("succeeded", ("last.safetensors",), "checkpoint", "has no best.safetensors"),
    ],
)
def test_a_teacher_job_that_will_not_do(
    resolve: Post, teacher_job: Any, outcome: str, names: tuple[str, ...], pointer: str, detail: str
) -> None:
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"job": teacher_job(outcome, names)}}))
    assert detail in found[f"/spec/teacher/weights/{pointer}"]


@pytest.mark.parametrize("job", ["0" * 32, "x", "' OR 1=1", "é", "\x00"])
def test_a_teacher_job_that_does_not_exist(resolve: Post, job: str) -> None:
    assert (
        "there is no job" in errors(resolve("distill", teacher={"weights": {"job": job}}))["/spec/teacher/weights/job"]
    )


def test_a_distil_job_without_teacher_and_a_train_job_with_one(resolve: Post, root: Path) -> None:
    assert "needs a teacher" in resolve("distill").text
    write_weights(root / "t.safetensors")
    assert "has no teacher" in resolve("train", teacher={"weights": {"file": "t.safetensors"}}).text


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


def test_a_teacher_model_other_than_the_job_says(resolve: Post, teacher_job: Any) -> None:
    other = TINY | {"head": {"channels": 32, "depth": 3}}
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"job": teacher_job()}, "model": other}))
    assert "misses tensors that the model has (6): head.cls_tower.2.conv.weight" in found["/spec/teacher/weights/job"]


def test_our_own_weights_say_their_model_and_classes(resolve: Post, root: Path) -> None:
    path = write_weights(root / "t.safetensors")
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}})
    assert answer.status_code == 200, answer.text
    teacher = answer.json()["spec"]["teacher"]
    assert teacher["weights"] == {"file": str(path)}
    assert (teacher["classes"], teacher["model"]["backbone"]["width"]) == (CLASSES, 8)


def test_weights_that_do_not_say_their_model(resolve: Post, root: Path) -> None:
    write_weights(root / "t.safetensors", model_=TINY, model="{}")
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}}))
    assert found == {"/spec/teacher/model": "the weights file does not say which model it is for"}
    teacher = {"weights": {"file": "t.safetensors"}, "model": TINY}
    assert resolve("distill", student=TINY, teacher=teacher).status_code == 200


@pytest.mark.parametrize("backbone", [[], {}, [["resnet18"]]])
def test_weights_whose_model_is_nonsense(resolve: Post, root: Path, backbone: Any) -> None:
    write_weights(root / "t.safetensors", model=json.dumps({"backbone": {"name": backbone}}))
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}}))
    assert found == {"/spec/teacher/model": "the weights file does not say which model it is for"}


@pytest.mark.parametrize(
    "classes",
    [[""], ["x" * 201], [f"c{i}" for i in range(10_001)], ["\ud800", "b"], [1, 2], [], {"a": 1}, "ring"],
    ids=["empty name", "long name", "many", "half a surrogate", "numbers", "none", "mapping", "text"],
)
def test_weights_whose_classes_no_spec_could_hold(resolve: Post, root: Path, classes: Any) -> None:
    """Such a file does not say its classes; that must also be bearable where the data are at fault."""
    write_weights(root / "t.safetensors", said=classes)
    teacher = {"weights": {"file": "t.safetensors"}}
    answer = resolve("distill", student=TINY, teacher=teacher)
    assert answer.json()["spec"]["teacher"]["classes"] == CLASSES
    found = errors(resolve("distill", data__train={"annotations": "no", "images": "images"}))
    assert found.keys() == {"/spec/data/train/annotations"}


@pytest.mark.parametrize("place", ["name", "metadata"])
def test_weights_with_half_a_surrogate(resolve: Post, root: Path, place: str) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = {"\ud800": entry} if place == "name" else {"a": entry, "__metadata__": {"classes": "\ud800"}}
    text = json.dumps(header).encode()
    (root / "t.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}, "model": TINY}))
    assert "text that is not Unicode" in found["/spec/teacher/weights/file"]


def test_weights_that_do_not_fit_the_model(resolve: Post, root: Path) -> None:
    write_weights(root / "t.safetensors")
    other = TINY | {"backbone": {"name": "resnet18", "width": 8}, "head": {"channels": 32, "depth": 2, "reg_max": 8}}
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}, "model": other})
    details = [f["detail"] for f in answer.json()["errors"] if f["pointer"] == "/spec/teacher/weights/file"]
    assert len(details) == 2
    assert "misses tensors that the model has" in details[0]
    assert "backbone.layer1.1.conv1.weight" in details[0]
    assert "and 30 more" in details[0]
    assert details[1] == (
        "the weights file has tensors of other shapes (3): head.bins is [17], not [9], "
        "head.box.weight is [68, 32, 3, 3], not [36, 32, 3, 3], head.box.bias is [68], not [36]"
    )


def test_weights_with_tensors_of_something_else(resolve: Post, root: Path) -> None:
    config = ModelConfig.model_validate(TINY)
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(config, 2).items()}
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    for name in counters:  # loading can do without
        del tensors[name]
    save_file(tensors | {"ema.decay": torch.zeros(1)}, root / "t.safetensors")
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}, "model": TINY}))
    assert found == {"/spec/teacher/weights/file": "the weights file has tensors that the model has not (1): ema.decay"}


def test_teacher_and_student_with_other_classes(resolve: Post, root: Path) -> None:
    write_weights(root / "t.safetensors", classes=["square", "ring"])
    teacher: dict[str, Any] = {"weights": {"file": "t.safetensors"}}
    found = errors(resolve("distill", student=TINY, teacher=teacher))
    assert "class 0 is 'square' here and 'ring' there" in found["/spec/teacher/weights/file"]
    found = errors(resolve("distill", student=TINY, teacher=teacher | {"classes": CLASSES}))
    assert "were trained with other classes" in found["/spec/teacher/classes"]
    assert resolve("distill", student=TINY, teacher=teacher, data__classes=["square", "ring"]).status_code == 200
    found = errors(resolve("distill", student=TINY, teacher=teacher, data__classes=["square"]))
    assert "2 against 1" in found["/spec/teacher/weights/file"]


def test_weights_of_mmdetection_are_left_to_the_worker(resolve: Post, root: Path) -> None:
    save_file({"bbox_head.gfl_cls.bias": torch.zeros(2)}, root / "t.safetensors")
    teacher: dict[str, Any] = {"weights": {"file": "t.safetensors"}}
    assert errors(resolve("distill", student=TINY, teacher=teacher)).keys() == {"/spec/teacher/model"}
    answer = resolve("distill", student=TINY, teacher=teacher | {"model": TINY})
    assert answer.json()["spec"]["teacher"]["classes"] == CLASSES


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["evil.safetensors", "evil.pth"])
def test_a_pickle_is_never_run(resolve: Post, root: Path, tmp_path: Path, name: str) -> None:
    (root / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": name}, "model": TINY})
    if name.endswith(".pth"):  # only the worker's torch can tell, which loads tensors alone
        assert answer.status_code == 200
    else:
        assert "no readable safetensors file" in errors(answer)["/spec/teacher/weights/file"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 4) + b"{}"])
def test_broken_safetensors(resolve: Post, root: Path, content: bytes) -> None:
    (root / "t.safetensors").write_bytes(content)
    found = errors(
        resolve(
            "distill",
            student=TINY | {"backbone": {"name": "resnet_tiny", "init": {"file": "t.safetensors"}}},
            teacher={"weights": {"file": "t.safetensors"}, "model": TINY},
        )
    )
    assert found.keys() == {"/spec/student/backbone/init/file", "/spec/teacher/weights/file"}


def test_the_file_a_teachers_backbone_began_with_is_not_kept(resolve: Post, root: Path) -> None:
    hostile = TINY | {"backbone": {"name": "resnet_tiny", "width": 8, "init": {"file": "/etc/passwd"}}}
    write_weights(root / "t.safetensors", model_=hostile)
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}})
    assert answer.json()["spec"]["teacher"]["model"]["backbone"]["init"] == "random"


# --- the pair --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "distill", "pointer", "detail"),
    [
        ({"strides": [8, 16, 32]}, {}, "/spec/student/strides", "[8, 16, 32] and [8, 16, 32, 64, 128]"),
        ({"head": {"channels": 32, "depth": 2, "reg_max": 8}}, {}, "/spec/student/head/reg_max", "8 and 16"),
        ({"head": {"channels": 64, "depth": 2}}, {}, "/spec/student/head/channels", "64 channels, the teacher's 32"),
        ({"neck": {"channels": 64}}, {"crosskd": {"cut": 0}}, "/spec/student/neck/channels", "64 channels"),
        ({"neck": {"channels": 64}}, {"pkd": {}}, "/spec/student/neck/channels", "PKD compares"),
        ({}, {"crosskd": {"cut": 3}}, "/spec/distill/crosskd/cut", "the cut 3 lies behind the shorter head"),
        ({"pixels": {"order": "bgr"}}, {}, "/spec/student/pixels", "differ in pixels"),
    ],
)
def test_pairs_that_cannot_be_joined(
    resolve: Post, root: Path, student: dict[str, Any], distill: dict[str, Any], pointer: str, detail: str
) -> None:
    write_weights(root / "t.safetensors")
    teacher = {"weights": {"file": "t.safetensors"}}
    found = errors(resolve("distill", student=TINY | student, teacher=teacher, distill=distill))
    assert found.keys() == {pointer}
    assert detail in found[pointer]


@pytest.mark.parametrize(
    ("student", "distill"),
    [
        ({"neck": {"channels": 64}}, {}),  # joined behind the neck
        ({"head": {"channels": 64, "depth": 4}}, {"crosskd": {"cut": 0}}),  # joined before the head
        ({"head": {"channels": 64, "depth": 1}}, {"pkd": {}}),  # not joined in the head at all
        ({"head": {"channels": 32, "depth": 1}}, {}),
    ],
)
def test_pairs_that_can(resolve: Post, root: Path, student: dict[str, Any], distill: dict[str, Any]) -> None:
    write_weights(root / "t.safetensors")
    teacher = {"weights": {"file": "t.safetensors"}}
    answer = resolve("distill", student=TINY | student, teacher=teacher, distill=distill)
    assert answer.status_code == 200, answer.text


def test_what_fits_here_fits_the_distiller(resolve: Post, root: Path) -> None:
    """A dry run that passes builds in the core, with weights that load."""
    from crosskd.config import TrainConfig
    from crosskd.convert.load import load_weights
    from crosskd.detectors.detector import build_detector
    from crosskd.distill.distiller import build_distiller

    path = write_weights(root / "t.safetensors")
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": str(path)}})
    config = TrainConfig.model_validate(answer.json()["spec"])
    assert config.teacher is not None
    assert config.teacher.model is not None
    assert config.distill is not None
    teacher = build_detector(config.teacher.model, 2, pretrained=False)
    load_weights(teacher, path)
    distiller = build_distiller(build_detector(config.student, 2), teacher, config.distill)
    assert distiller.cut == 2
