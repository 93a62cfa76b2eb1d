"""Teachers of a distillation, what their weights say of themselves, and the pairs that they make with a student."""

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

from crosskd.spec.config import ModelConfig
from crosskd.spec.weights.shapes import expected_shapes
from tests.support.databases import ONE_DATABASE
from tests.support.specs import CLASSES, TINY, Post, errors, write_weights
from tests.support.worker_calls import Worker, upload


@pytest.fixture
def teacher_job(post_job: Post, worker: Worker, spec: dict[str, Any]) -> Callable[..., str]:
    """A job that trained `TINY`, finished as told."""

    def make(outcome: str = "succeeded", names: tuple[str, ...] = ("best.safetensors",)) -> str:
        job = str(post_job(spec=spec | {"student": TINY}))
        worker.claim(job)
        for name in names:
            upload(worker, name, b"weights")
        failure = {"failure_class": "user", "message": "no"}
        worker.finish(outcome, failure=failure if outcome == "failed" else None)
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
        ("failed", ("best.safetensors",), "job", "is failed, not succeeded"),
        ("succeeded", ("last.safetensors",), "job", "has no best.safetensors"),
        ("succeeded", ("last.safetensors",), "checkpoint", "has no best.safetensors"),
    ],
)
def test_a_teacher_job_that_will_not_do(
    resolve: Post, teacher_job: Any, outcome: str, names: tuple[str, ...], pointer: str, detail: str
) -> None:
    weights = {"job": teacher_job(outcome, names)} | ({"checkpoint": "best"} if pointer == "checkpoint" else {})
    found = errors(resolve("distill", student=TINY, teacher={"weights": weights}))
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


def test_a_teacher_model_other_than_the_job_says(resolve: Post, teacher_job: Any) -> None:
    other = TINY | {"head": {"channels": 32, "depth": 3}}
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"job": teacher_job()}, "model": other}))
    assert "misses tensors that the model has (6): head.cls_tower.2.conv.weight" in found["/spec/teacher/weights/job"]


@ONE_DATABASE
def test_our_own_weights_say_their_model_and_classes(resolve: Post, root: Path) -> None:
    path = write_weights(root / "t.safetensors")
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}})
    assert answer.status_code == 200, answer.text
    teacher = answer.json()["spec"]["teacher"]
    assert teacher["weights"] == {"file": str(path)}
    assert (teacher["classes"], teacher["model"]["backbone"]["width"]) == (CLASSES, 8)


@ONE_DATABASE
def test_weights_that_do_not_say_their_model(resolve: Post, root: Path) -> None:
    write_weights(root / "t.safetensors", model_=TINY, model="{}")
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}}))
    assert found == {"/spec/teacher/model": "the weights file does not say which model it is for"}
    teacher = {"weights": {"file": "t.safetensors"}, "model": TINY}
    assert resolve("distill", student=TINY, teacher=teacher).status_code == 200


@ONE_DATABASE
@pytest.mark.parametrize("backbone", [[], {}, [["resnet18"]]])
def test_weights_whose_model_is_nonsense(resolve: Post, root: Path, backbone: Any) -> None:
    write_weights(root / "t.safetensors", model=json.dumps({"backbone": {"name": backbone}}))
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}}))
    assert found == {"/spec/teacher/model": "the weights file does not say which model it is for"}


@ONE_DATABASE
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


@ONE_DATABASE
@pytest.mark.parametrize("place", ["name", "metadata"])
def test_weights_with_half_a_surrogate(resolve: Post, root: Path, place: str) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = {"\ud800": entry} if place == "name" else {"a": entry, "__metadata__": {"classes": "\ud800"}}
    text = json.dumps(header).encode()
    (root / "t.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}, "model": TINY}))
    assert "text that is not Unicode" in found["/spec/teacher/weights/file"]


@ONE_DATABASE
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


@ONE_DATABASE
def test_weights_with_tensors_of_something_else(resolve: Post, root: Path) -> None:
    config = ModelConfig.model_validate(TINY)
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(config, 2).items()}
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    for name in counters:  # loading can do without
        del tensors[name]
    save_file(tensors | {"ema.decay": torch.zeros(1)}, root / "t.safetensors")
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}, "model": TINY}))
    assert found == {"/spec/teacher/weights/file": "the weights file has tensors that the model has not (1): ema.decay"}


@ONE_DATABASE
def test_of_a_timm_backbone_the_names_are_left_to_the_worker(resolve: Post, root: Path) -> None:
    """Only timm knows them; the neck and the head are checked all the same."""
    model = TINY | {"backbone": {"name": "timm/test_resnet"}}
    shapes = expected_shapes(ModelConfig.model_validate(model), 2)
    assert not any(name.startswith("backbone.") for name in shapes)
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors | {"backbone.net.conv1.weight": torch.zeros(3)}, root / "t.safetensors")
    teacher = {"weights": {"file": "t.safetensors"}, "model": model}
    assert resolve("distill", student=TINY, teacher=teacher).status_code == 200
    del tensors["neck.output.0.bias"]
    save_file(tensors | {"ema.decay": torch.zeros(1)}, root / "t.safetensors")
    answer = resolve("distill", student=TINY, teacher=teacher)
    details = [fault["detail"] for fault in answer.json()["errors"]]
    assert details == [
        "the weights file misses tensors that the model has (1): neck.output.0.bias",
        "the weights file has tensors that the model has not (1): ema.decay",
    ]


@ONE_DATABASE
def test_teacher_and_student_with_other_classes(resolve: Post, root: Path) -> None:
    write_weights(root / "t.safetensors", classes=["square", "ring"])
    teacher: dict[str, Any] = {"weights": {"file": "t.safetensors"}}
    # In another order, or with more classes: the worker narrows the teacher by name.
    for classes in (CLASSES, ["square", "ring"], ["square"]):
        assert resolve("distill", student=TINY, teacher=teacher, data__classes=classes).status_code == 200
    found = errors(resolve("distill", student=TINY, teacher=teacher | {"classes": CLASSES}))
    assert "were trained with other classes" in found["/spec/teacher/classes"]
    write_weights(root / "t.safetensors", classes=["square", "star"])
    found = errors(resolve("distill", student=TINY, teacher=teacher, data__classes=CLASSES))
    assert found == {"/spec/teacher/weights/file": "the teacher does not know ring; it was trained on square, star"}


@ONE_DATABASE
def test_weights_of_mmdetection_are_left_to_the_worker(resolve: Post, root: Path) -> None:
    save_file({"bbox_head.gfl_cls.bias": torch.zeros(2)}, root / "t.safetensors")
    teacher: dict[str, Any] = {"weights": {"file": "t.safetensors"}}
    assert errors(resolve("distill", student=TINY, teacher=teacher)).keys() == {"/spec/teacher/model"}
    answer = resolve("distill", student=TINY, teacher=teacher | {"model": TINY})
    assert answer.json()["spec"]["teacher"]["classes"] is None  # the file's own, where it names them


BODY = "backbone.body.conv1.weight"


@ONE_DATABASE
@pytest.mark.parametrize(
    ("names", "told", "remedy"),
    [
        (["head.classification_head.module_list.0.weight"], "is an SSD of torchvision's", "Use one of these"),
        ([BODY, "roi_heads.box_head.fc6.bias", "roi_heads.mask_head.0.0.bias"], "is a Mask R-CNN", "Use one of these"),
        ([BODY, "roi_heads.keypoint_head.0.bias"], "is a Keypoint R-CNN", "Use one of these"),
        (
            [BODY, "roi_heads.box_head.fc6.bias"],
            "holds a faster_rcnn of torchvision's; `teacher.model` is a gfl",
            "Set",
        ),
        ([BODY, "head.regression_head.bbox_ctrness.bias"], "holds a fcos of torchvision's", "to fcos"),
        ([BODY, "head.classification_head.cls_logits.bias"], "holds a retinanet of torchvision's", "to retinanet"),
    ],
)
def test_a_file_of_torchvisions_that_holds_another_architecture_is_told_by_its_names(
    resolve: Post, root: Path, names: list[str], told: str, remedy: str
) -> None:
    save_file({name: torch.zeros(2) for name in names}, root / "t.safetensors")
    teacher = {"weights": {"file": "t.safetensors"}, "model": TINY}
    (fault,) = resolve("distill", student=TINY, teacher=teacher).json()["errors"]
    assert fault["pointer"] == "/spec/teacher/weights/file"
    assert told in fault["detail"]
    assert remedy in fault["remedy"]


@ONE_DATABASE
def test_what_we_converted_says_its_model_and_classes_under_any_names(resolve: Post, root: Path) -> None:
    model = ModelConfig.model_validate(TINY)
    metadata = {"format": "crosskd", "model": model.model_dump_json(), "classes": json.dumps(CLASSES)}
    save_file({"bbox_head.gfl_cls.bias": torch.zeros(2)}, root / "t.safetensors", metadata)
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}})
    teacher = answer.json()["spec"]["teacher"]
    assert teacher["classes"] == CLASSES
    assert teacher["model"]["detector"] == model.detector


@ONE_DATABASE
def test_a_checkpoint_of_transformers_is_named(resolve: Post, root: Path) -> None:
    save_file({"model.decoder.layers.0.fc1.bias": torch.zeros(2)}, root / "t.safetensors")
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}, "model": TINY}))
    assert "a DETR as transformers saves it" in found["/spec/teacher/weights/file"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@ONE_DATABASE
@pytest.mark.parametrize("name", ["evil.safetensors", "evil.pth"])
def test_a_pickle_is_never_run(resolve: Post, root: Path, tmp_path: Path, name: str) -> None:
    (root / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": name}, "model": TINY})
    if name.endswith(".pth"):  # only the worker's torch can tell, which loads tensors alone
        assert answer.status_code == 200
    else:
        assert "no readable safetensors file" in errors(answer)["/spec/teacher/weights/file"]
    assert not (tmp_path / "ran").exists()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 102541057\n"


@ONE_DATABASE
@pytest.mark.parametrize("section", ["teacher", "student"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(("content", "said"), [(LFS, "a Git LFS pointer"), (b"<html>Sign in</html>", "a web page")])
def test_what_is_no_weights_file_is_said_at_submission(
    resolve: Post, root: Path, section: str, name: str, content: bytes, said: str
) -> None:
    (root / name).write_bytes(content)
    begun = {**TINY, "backbone": {**TINY["backbone"], "init": {"file": name}}}
    if section == "teacher":
        answer = resolve("distill", student=TINY, teacher={"weights": {"file": name}, "model": TINY})
    else:
        answer = resolve("train", student=begun)
    pointer = "/spec/teacher/weights/file" if section == "teacher" else "/spec/student/backbone/init/file"
    assert f"{name} is {said}" in errors(answer)[pointer]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"width": 16}, "w.safetensors holds a backbone of width 8, not 16: conv1.weight is [8, 3, 7, 7]"),
        ({"name": "resnet50"}, "w.safetensors does not fit resnet50"),
    ],
)
def test_a_backbones_file_of_another_width_is_said_at_submission(
    resolve: Post, root: Path, changed: dict[str, Any], said: str
) -> None:
    shapes = expected_shapes(ModelConfig.model_validate(TINY), 2)
    own = {name.removeprefix("backbone."): shape for name, shape in shapes.items() if name.startswith("backbone.")}
    save_file({name: torch.zeros(shape) for name, shape in own.items()}, root / "w.safetensors")
    backbone = TINY["backbone"] | changed | {"init": {"file": "w.safetensors"}}
    answer = resolve("train", student=TINY | {"backbone": backbone})
    if not said:
        assert answer.status_code == 200, answer.text
    else:
        assert said in errors(answer)["/spec/student/backbone/init/file"]


@ONE_DATABASE
@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_a_header_is_read_under_any_ending_and_without_wrappings(resolve: Post, root: Path, prefix: str) -> None:
    model = ModelConfig.model_validate(TINY)
    state = {prefix + name: torch.zeros(shape) for name, shape in expected_shapes(model, len(CLASSES)).items()}
    save_file(state, root / "t.pth")
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.pth"}, "model": TINY})
    assert answer.status_code == 200, answer.text
    save_file(state | {f"{prefix}head.cls.bias": torch.zeros(99)}, root / "t.pth")
    found = errors(resolve("distill", student=TINY, teacher={"weights": {"file": "t.pth"}, "model": TINY}))
    assert "head.cls.bias is [99]" in found["/spec/teacher/weights/file"]


@ONE_DATABASE
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


@ONE_DATABASE
def test_the_file_a_teachers_backbone_began_with_is_not_kept(resolve: Post, root: Path) -> None:
    hostile = TINY | {"backbone": {"name": "resnet_tiny", "width": 8, "init": {"file": "/etc/passwd"}}}
    write_weights(root / "t.safetensors", model_=hostile)
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": "t.safetensors"}})
    assert answer.json()["spec"]["teacher"]["model"]["backbone"]["init"] == "random"


# --- the pair --------------------------------------------------------------------------------------------------------


@ONE_DATABASE
@pytest.mark.parametrize(
    ("student", "distill", "pointer", "detail"),
    [
        ({"strides": [8, 16, 32]}, {}, "/spec/student/strides", "[8, 16, 32] and [8, 16, 32, 64, 128]"),
        ({"neck": {"channels": 64}}, {"pkd": {}}, "/spec/student/neck/channels", "PKD compares"),
        ({}, {"crosskd": {"cut": 3}}, "/spec/distill/crosskd/cut", "the cut 3 lies behind the student's head"),
        ({"detector": "fcos"}, {"ld": {}}, "/spec/student/detector", "LD compares distributions"),
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


@ONE_DATABASE
@pytest.mark.parametrize(
    ("student", "distill"),
    [
        ({"neck": {"channels": 64}}, {}),  # joined behind the neck
        ({"head": {"channels": 64, "depth": 4}}, {"crosskd": {"cut": 0}}),  # joined before the head
        ({"head": {"channels": 64, "depth": 1}}, {"pkd": {}}),  # not joined in the head at all
        ({"head": {"channels": 32, "depth": 1}}, {}),
        ({"head": {"channels": 64, "depth": 2}}, {}),  # by an adapter
        ({"neck": {"channels": 64}}, {"crosskd": {"cut": 0}}),
        ({"head": {"channels": 32, "depth": 2, "reg_max": 8}}, {}),  # in the teacher's own box code
        ({"detector": "fcos", "head": {"channels": 32, "depth": 2}}, {}),
        ({"pixels": {"order": "bgr"}}, {}),  # renormalised
    ],
)
def test_pairs_that_can(resolve: Post, root: Path, student: dict[str, Any], distill: dict[str, Any]) -> None:
    write_weights(root / "t.safetensors")
    teacher = {"weights": {"file": "t.safetensors"}}
    answer = resolve("distill", student=TINY | student, teacher=teacher, distill=distill)
    assert answer.status_code == 200, answer.text


@ONE_DATABASE
def test_what_fits_here_fits_the_distiller(resolve: Post, root: Path) -> None:
    """A dry run that passes builds in the core, with weights that load."""
    from crosskd.convert.load import load_weights
    from crosskd.detectors.detector import build_detector
    from crosskd.distill.distiller import build_distiller
    from crosskd.spec.config import TrainConfig
    from crosskd.spec.distill.needs import HeadCut

    path = write_weights(root / "t.safetensors")
    answer = resolve("distill", student=TINY, teacher={"weights": {"file": str(path)}})
    config = TrainConfig.model_validate(answer.json()["spec"])
    assert config.teacher is not None
    assert config.teacher.model is not None
    assert config.distill is not None
    teacher = build_detector(config.teacher.model, 2, pretrained=False)
    load_weights(teacher, path)
    distiller = build_distiller(build_detector(config.student, 2), teacher, config.distill)
    assert HeadCut(2, 2) in distiller.terms["crosskd"].needs
