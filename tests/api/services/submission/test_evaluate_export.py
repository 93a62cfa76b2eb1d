"""Jobs on finished weights (evaluate, export): what their specification becomes, and every way to get it wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.models import Outbox
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from tests.support import library_folders
from tests.support.databases import ONE_DATABASE
from tests.support.specs import CLASSES, TINY, Post, errors, write_weights
from tests.support.worker_calls import Worker, upload

UNTRIED = "nobody has tried yet whether resnet_tiny can be exported: the export fails if not, within `max_seconds`"
SCALE = {"val_short_edge": 96, "long_edge": 128, "pad_to": 32}


@pytest.fixture
def trained(post_job: Post, worker: Worker, spec: dict[str, Any]) -> str:
    """A job that trained `TINY` at a scale of its own."""
    job = str(post_job(spec=spec | {"student": TINY, "augment": {"short_edges": [96], "long_edge": 128}}))
    worker.claim(job)
    upload(worker, "best.safetensors", b"weights")
    worker.finish("succeeded")
    return job


@pytest.fixture
def post(client: TestClient, spec: dict[str, Any]) -> Callable[..., Any]:
    """Post an evaluation or an export, dry unless told otherwise."""

    def send(kind: str, *, dry: bool = True, **sections: Any) -> Any:
        data = {"data": {"val": spec["data"]["val"]}} if kind == "evaluate" else {}
        body = {"kind": kind, "name": "n", "spec": {"device": "cpu", **data, **sections}}
        return client.post("/jobs", params={"dry_run": dry}, json=body)

    return send


# --- what is filled in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_former_job_says_everything(post: Post, trained: str, root: Path, kind: str) -> None:
    answer = post(kind, weights={"job": trained}, postprocess={"max_detections": 7})
    assert answer.status_code == 200, answer.text
    assert answer.json()["kind"] == kind
    spec = answer.json()["spec"]
    assert spec["weights"] == {"job": trained, "checkpoint": "best"}
    assert spec["model"]["backbone"]["width"] == TINY["backbone"]["width"]
    # `augment` leaves to the worker, which has the file, how images were resized.
    scale = {"short_edge": 96, "long_edge": 128, "pad_to": 32, "keep_ratio": True}
    assert spec["scale"] == scale | {"antialias": None, "sixteen_bit": None}
    # The model's own knobs, but for the one that was given.
    assert spec["postprocess"] == spec["model"]["postprocess"]
    assert (spec["postprocess"]["max_detections"], spec["postprocess"]["nms_iou"]) == (7, 0.6)
    if kind == "evaluate":
        assert spec["data"]["classes"] == CLASSES
        assert spec["data"]["val"] == {"annotations": str(root / "instances.json"), "images": str(root / "images")}
    else:
        assert spec["classes"] == CLASSES
        assert spec["images"] == str(root / "images")
        assert (spec["format"], spec["opset"]) == ("onnx", 18)


@ONE_DATABASE
@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_file_of_ours_says_nearly_everything(post: Post, root: Path, kind: str) -> None:
    write_weights(root / "w.safetensors", augment=json.dumps(SCALE))
    more = {"images": "images"} if kind == "export" else {}
    spec = post(kind, weights={"file": "w.safetensors"}, **more).json()["spec"]
    assert spec["weights"] == {"file": str(root / "w.safetensors")}
    known = {
        "antialias": True,
        "sixteen_bit": "high_byte",
        "keep_ratio": True,
    }  # of every file from before it was written down
    assert spec["scale"] == {"short_edge": 96, "long_edge": 128, "pad_to": 32} | known
    assert spec.get("classes", spec.get("data", {}).get("classes")) == CLASSES


@ONE_DATABASE
@pytest.mark.parametrize("augment", ["no JSON", "[]", '{"long_edge": "x"}', "{}", '{"antialias": false}'])
def test_a_scale_that_is_none_is_the_default(post: Post, root: Path, augment: str) -> None:
    write_weights(root / "w.safetensors", augment=augment)
    spec = post("evaluate", weights={"file": "w.safetensors"}).json()["spec"]
    open_ones = {"antialias": None, "sixteen_bit": None}  # the worker asks the file
    assert spec["scale"] == {"short_edge": 800, "long_edge": 1333, "pad_to": 32, "keep_ratio": True} | open_ones


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_resolving_twice_changes_nothing(post: Post, trained: str, client: TestClient, kind: str) -> None:
    first = post(kind, weights={"job": trained}).json()
    again = {"kind": kind, "name": "n", "spec": first["spec"]}
    assert client.post("/jobs?dry_run=true", json=again).json() == first


def test_the_data_may_order_the_classes_otherwise(post: Post, trained: str, spec: dict[str, Any]) -> None:
    """Labels are the model's; which of the file's categories they are goes by name."""
    data = {"val": spec["data"]["val"], "classes": CLASSES[::-1]}
    assert post("evaluate", weights={"job": trained}, data=data).json()["spec"]["data"]["classes"] == CLASSES


# --- what a worker gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_claim_leads_to_the_weights(post: Post, trained: str, client: TestClient, worker: Worker, kind: str) -> None:
    answer = post(kind, dry=False, weights={"job": trained})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert "weights" not in job["links"]
    claim = worker.claim(job["id"]).json()
    assert claim["kind"] == kind
    assert claim["teacher"] is None
    assert client.get(claim["weights"]["url"]).content == b"weights"
    assert claim["spec"] == job["spec"]


@ONE_DATABASE
@pytest.mark.parametrize(("device", "queue"), [("auto", "any"), ("cpu", "cpu"), ("cuda", "gpu")])
def test_the_device_chooses_the_queue(post: Post, trained: str, database: Any, device: str, queue: str) -> None:
    job = post("export", dry=False, weights={"job": trained}, device=device).json()["id"]
    with database.reading() as session:
        assert session.scalar(select(Outbox.queue).where(Outbox.job_id == job)) == queue


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_such_a_job_has_no_weights(post: Post, trained: str, client: TestClient, worker: Worker, kind: str) -> None:
    job = post(kind, dry=False, weights={"job": trained}).json()["id"]
    answer = client.get(f"/jobs/{job}/weights")
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"the job has no weights of its own: it is of kind {kind}"
    worker.claim(job)
    worker.finish("succeeded")
    assert "has no best.safetensors" in errors(post(kind, weights={"job": job}))["/spec/weights/job"]


def test_an_evaluation_is_the_jobs_ap(post: Post, trained: str, client: TestClient, worker: Worker) -> None:
    job = post("evaluate", dry=False, weights={"job": trained}).json()["id"]
    worker.claim(job)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    report = {"model": "student", "step": 0, "metrics": dict.fromkeys(names, 0.5), "images": 1, "best": True}
    assert worker.post("evaluations", report).is_success
    worker.finish("succeeded", result={"kind": "evaluate"})
    assert client.get(f"/jobs/{job}").json()["best_ap"] == 0.5
    assert client.get(f"/jobs/{job}").json()["status"] == "succeeded"


def test_a_graph_is_an_artifact(post: Post, trained: str, client: TestClient, worker: Worker) -> None:
    job = post("export", dry=False, weights={"job": trained}).json()["id"]
    worker.claim(job)
    upload(worker, "model.onnx?kind=onnx", b"graph")
    (artifact,) = client.get(f"/jobs/{job}/artifacts").json()["items"]
    assert (artifact["name"], artifact["kind"]) == ("model.onnx", "onnx")


# --- what is refused -------------------------------------------------------------------------------------------------


@ONE_DATABASE
def test_every_fault_at_once(post: Post, spec: dict[str, Any]) -> None:
    val = spec["data"]["val"] | {"images": "../outside"}
    found = errors(post("evaluate", weights={"job": "0" * 32}, data={"val": val}))
    assert found.keys() == {"/spec/weights/job", "/spec/data/val/images"}
    found = errors(post("export", weights={"file": "no.safetensors"}, images="/etc"))
    assert found.keys() == {"/spec/weights/file", "/spec/images"}


@ONE_DATABASE
def test_what_the_model_refuses_stands_beside_what_the_files_say(post: Post, spec: dict[str, Any]) -> None:
    val = spec["data"]["val"] | {"images": "../outside"}
    found = errors(post("evaluate", weights={"job": "0" * 32}, data={"val": val}, batch_size=0, surprise=1))
    pointers = {"/spec/weights/job", "/spec/data/val/images", "/spec/batch_size", "/spec/surprise"}
    assert found.keys() == pointers
    assert errors(post("export")).keys() == {"/spec/weights"}


@ONE_DATABASE
def test_an_unknown_field_names_the_known_ones_of_that_kind(post: Post) -> None:
    answer = post("export", weights={"job": "x"}, opsett=18)
    remedies = {fault["pointer"]: fault["remedy"] for fault in answer.json()["errors"]}
    assert remedies["/spec/opsett"].startswith("Did you mean `opset`? ")
    assert "batch_size" not in remedies["/spec/opsett"]  # which only an evaluation has


@ONE_DATABASE
@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_spec_of_another_kind(client: TestClient, spec: dict[str, Any], kind: str) -> None:
    found = errors(client.post("/jobs", json={"kind": kind, "name": "n", "spec": spec}))
    assert {"/spec/weights", "/spec/student"} <= found.keys()
    swapped = errors(client.post("/jobs", json={"kind": "train", "name": "n", "spec": {"weights": {"job": "x"}}}))
    assert {"/spec/weights", "/spec/student", "/spec/data"} <= swapped.keys()
    unknown = errors(client.post("/jobs", json={"kind": "polish", "name": "n", "spec": spec}))
    assert unknown.keys() == {"/kind"}


@ONE_DATABASE
def test_weights_that_do_not_fit(post: Post, root: Path) -> None:
    write_weights(root / "w.safetensors")
    found = errors(post("evaluate", weights={"file": "w.safetensors"}, model=TINY | {"strides": [8, 16, 32]}))
    assert "has tensors that the model has not" in found["/spec/weights/file"]
    hub = {"detector": "rt_detr", "backbone": {"name": "rt_detr_resnet_tiny"}, "detr": {"width": 32, "heads": 4}}
    library_folders.craft(root / "hub", ModelConfig.model_validate(hub), CLASSES)
    found = errors(post("evaluate", weights={"file": "hub"}, model={**hub, "detr": {"width": 32, "heads": 8}}))
    assert found == {"/spec/model/detr/heads": "`model.detr.heads` is 8, and config.json of hub says 4"}
    found = errors(post("evaluate", weights={"file": "w.safetensors"}, postprocess={"score": "root"}))
    assert "postprocess.score is a knob of fcos" in found["/spec/postprocess"]


@ONE_DATABASE
@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_a_file_that_names_a_class_twice(post: Post, root: Path, spec: dict[str, Any], kind: str) -> None:
    write_weights(root / "w.safetensors", said=["ring", "ring"])
    coco = json.loads((root / "instances.json").read_text())
    coco |= {"categories": coco["categories"][:1], "annotations": coco["annotations"][:1]}
    (root / "instances.json").write_text(json.dumps(coco))  # as a set, the names are those of the data
    more = {"images": "images"} if kind == "export" else {}
    found = errors(post(kind, weights={"file": "w.safetensors"}, **more))
    assert found == {"/spec/weights/file": "w.safetensors names a class twice"}


@ONE_DATABASE
def test_data_with_more_classes_than_a_spec_can_hold(post: Post, root: Path, spec: dict[str, Any]) -> None:
    (root / "w.pth").write_bytes(b"torch")
    coco = json.loads((root / "instances.json").read_text())
    coco["categories"] = [{"id": 1 + i, "name": f"c{i}"} for i in range(10_001)]
    (root / "many.json").write_text(json.dumps(coco))
    val = spec["data"]["val"] | {"annotations": "many.json"}
    found = errors(post("evaluate", weights={"file": "w.pth"}, model=TINY, data={"val": val}))
    assert "classes out of it: it has 10001 entries, and at most 10000" in found["/spec/data/val/annotations"]


def test_a_scale_that_no_loader_takes(post: Post, trained: str) -> None:
    found = errors(post("evaluate", weights={"job": trained}, scale={"short_edge": 4097, "long_edge": 8192}))
    assert found.keys() == {"/spec/scale/short_edge"}
    assert post("evaluate", weights={"job": trained}, scale={"short_edge": 4096, "long_edge": 8192}).status_code == 200


@ONE_DATABASE
def test_a_model_that_has_no_form_in_onnx(post: Post, root: Path) -> None:
    write_weights(root / "w.safetensors", TINY | {"backbone": {"name": "swin_t", "init": "random"}})
    found = errors(post("export", weights={"file": "w.safetensors"}, images="images"))
    assert "swin_t cannot be exported" in found["/spec/weights/file"]
    assert post("evaluate", weights={"file": "w.safetensors"}).status_code == 200


@ONE_DATABASE
@pytest.mark.parametrize(
    ("entry", "refused", "noted"),
    [
        ("", "", ""),  # exports
        ("its windows", "resnet_tiny cannot be exported: its windows", ""),
        (None, "", UNTRIED),
    ],
)
def test_what_is_known_of_a_backbone_in_onnx(
    post: Post, root: Path, monkeypatch: pytest.MonkeyPatch, entry: str | None, refused: str, noted: str
) -> None:
    known = replace(registry.BACKBONES["resnet_tiny"], export_fault=entry)
    monkeypatch.setitem(registry.BACKBONES, "resnet_tiny", known)
    write_weights(root / "w.safetensors")
    answer = post("export", weights={"file": "w.safetensors"}, images="images")
    if refused:
        assert errors(answer) == {"/spec/weights/file": refused}
    else:
        assert [note for note in answer.json()["notes"] if "exported" in note] == ([noted] if noted else [])
    assert "exported" not in str(post("evaluate", weights={"file": "w.safetensors"}).json()["notes"])


@ONE_DATABASE
def test_weights_that_say_nothing(post: Post, root: Path) -> None:
    (root / "w.pth").write_bytes(b"torch")
    assert errors(post("evaluate", weights={"file": "w.pth"})).keys() == {"/spec/model"}
    found = errors(post("export", weights={"file": "w.pth"}))
    assert found.keys() == {"/spec/model", "/spec/classes", "/spec/images"}
    answer = post("export", weights={"file": "w.pth"}, model=TINY, classes=["a", "b"], images="images")
    assert answer.status_code == 200, answer.text


def test_classes_that_differ(post: Post, trained: str, root: Path, spec: dict[str, Any]) -> None:
    coco = json.loads((root / "instances.json").read_text())
    coco["categories"].append({"id": 3, "name": "dot"})
    (root / "more.json").write_text(json.dumps(coco))
    val = spec["data"]["val"] | {"annotations": "more.json"}
    found = errors(post("evaluate", weights={"job": trained}, data={"val": val}))
    assert "'dot' in one of them alone" in found["/spec/data/val/annotations"]
    assert post("evaluate", weights={"job": trained}, data={"val": val, "classes": CLASSES}).status_code == 200
    found = errors(post("evaluate", weights={"job": trained}, data={"val": val, "classes": ["ring", "cat"]}))
    assert set(found) == {"/spec/data/classes"}
    found = errors(post("export", weights={"job": trained}, classes=["x", "y"]))
    assert "trained with other classes" in found["/spec/classes"]


@ONE_DATABASE
def test_a_training_that_will_leave_no_graph_is_told_so(resolve: Callable[..., Any]) -> None:
    """It is one all the same: a graph is for predictions alone."""

    def notes(**changes: Any) -> list[str]:
        answer = resolve(**changes)
        assert answer.status_code == 200, answer.text
        return [note for note in answer.json()["notes"] if "model.onnx" in note]

    assert notes() == []
    (note,) = notes(student={"backbone": {"name": "swin_t"}})
    assert note.startswith("the training will leave no model.onnx, which predictions need: swin_t cannot be exported")
    assert notes(export=None) == []
