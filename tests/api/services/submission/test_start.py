"""`student.init` at submission: what it would take is told, and what cannot fit is a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from tests.support.databases import ONE_DATABASE
from tests.support.specs import CLASSES, TINY, Post, errors, write_weights
from tests.support.worker_calls import Worker, upload

INIT = {**TINY, "init": {"file": "t.safetensors"}}
NONE: dict[str, Any] = {}
PLAIN, SMOOTH = {"antialias": False}, {"antialias": True}
SIZED = {"antialias": True, "val_short_edge": 64, "long_edge": 64, "pad_to": 32}
SQUARE = {**SIZED, "keep_ratio": False}
OTHERWISE = "images are read otherwise than those that the detector was trained on"


def test_what_is_taken_is_told_from_the_header(client: TestClient, resolve: Post, root: Path, spec: Any) -> None:
    write_weights(root / "t.safetensors", classes=[CLASSES[1], "star"])
    answer = resolve("train", student=INIT)
    assert answer.status_code == 200, answer.text
    note, unknown = answer.json()["notes"]
    assert "no worker on the CPU has been heard of" in unknown
    assert note.startswith("student.init: backbone ")
    assert f"classes by name: 1 kept ({CLASSES[1]}), 1 new ({CLASSES[0]}), 1 left (star)" in note
    assert answer.json()["spec"]["student"]["init"] == {"file": str(root / "t.safetensors")}
    posted = client.post("/jobs", json={"kind": "train", "name": "n", "spec": {**spec, "student": INIT}}).json()
    assert posted["notes"] == [note, unknown]
    assert "notes" not in client.get(f"/jobs/{posted['id']}").json()


@ONE_DATABASE
@pytest.mark.parametrize(
    ("start", "teacher", "given", "of_start", "of_teacher"),
    [
        (PLAIN, NONE, {}, "", ""),
        (PLAIN, SMOOTH, {}, "augment.antialias is true here, false there", ""),
        (SMOOTH, PLAIN, {}, "augment.antialias is false here, true there", ""),
        ({}, PLAIN, {}, "augment.antialias is false here, true there", ""),  # a file that does not say it
        (SMOOTH, NONE, PLAIN, "augment.antialias is false here, true there", ""),
        (PLAIN, SMOOTH, PLAIN, "", "augment.antialias is false here, true there"),
        (SQUARE, SQUARE, {"keep_ratio": False}, "", ""),
        (SQUARE, SIZED, {}, "augment.keep_ratio is true here, false there", ""),
        (SIZED, SQUARE, {}, "", "augment.keep_ratio is true here, false there"),
    ],
)
def test_other_images_than_those_it_was_trained_on_are_told(
    resolve: Post, root: Path, start: Any, teacher: Any, given: dict[str, Any], of_start: str, of_teacher: str
) -> None:
    changes: dict[str, Any] = {"student": INIT}
    for name, told in (("t", start), ("teacher", teacher)):
        write_weights(root / f"{name}.safetensors", **({"augment": json.dumps(told)} if told else {}))
    if teacher is not NONE:
        changes |= {"teacher": {"weights": {"file": "teacher.safetensors"}}}
    changes |= {f"augment__{name}": value for name, value in given.items()}
    notes = resolve("distill" if teacher is not NONE else "train", **changes).json()["notes"]
    assert [note for note in notes if "images are read otherwise" in note] == [
        *([f"teacher.weights: {OTHERWISE.replace('detector', 'teacher')}: {of_teacher}"] if of_teacher else []),
        *([f"student.init: {OTHERWISE}: {of_start}"] if of_start else []),
    ]


@ONE_DATABASE
def test_another_backbone_is_a_fault(resolve: Post, root: Path) -> None:
    write_weights(root / "t.safetensors")
    other = {**INIT, "backbone": {**TINY["backbone"], "width": 16}}
    found = errors(resolve("train", student=other))
    assert "a backbone whose width is 8" in found["/spec/student/backbone/width"]


def test_a_file_that_is_not_there_is_a_fault(resolve: Post) -> None:
    assert "/spec/student/init/file" in errors(resolve("train", student=INIT))
    assert "/spec/student/init/job" in errors(resolve("train", student={**TINY, "init": {"job": "x"}}))


@ONE_DATABASE
@pytest.mark.parametrize("name", ["t.pth", "t.safetensors"])
def test_what_no_header_says_is_left_to_the_worker(resolve: Post, root: Path, name: str) -> None:
    if name == "t.pth":
        torch.save({"x": torch.zeros(1)}, root / name)
    else:
        save_file({"bbox_head.gfl_cls.bias": torch.zeros(2)}, root / name)
    answer = resolve("train", student={**TINY, "init": {"file": name}})
    assert answer.status_code == 200, answer.text
    assert "the worker recognises it" in answer.json()["notes"][0]


def test_a_former_jobs_weights_reach_the_worker(
    client: TestClient, post_job: Post, worker: Worker, spec: dict[str, Any]
) -> None:
    job = str(post_job(spec=spec | {"student": TINY}))
    worker.claim(job)
    upload(worker, "best.safetensors", b"weights")
    worker.finish("succeeded", result={"config": {"augment": {"antialias": False}}})
    body = {"kind": "train", "name": "n", "spec": {**spec, "student": {**TINY, "init": {"job": job}}}}
    plainly = {**body["spec"], "augment": {"antialias": True}}
    assert OTHERWISE in client.post("/jobs?dry_run=true", json={**body, "spec": plainly}).json()["notes"][1]
    posted = client.post("/jobs", json=body).json()
    assert "2 kept" in posted["notes"][0]
    assert OTHERWISE not in str(posted["notes"])
    assert client.delete(f"/jobs/{job}").status_code == 409  # it is still needed
    reference = worker.claim(posted["id"]).json()["init"]
    assert client.get(reference["url"]).content == b"weights"
    worker.finish("succeeded")
    # A job that began so may itself be begun with.
    upload_again = {**body, "spec": {**body["spec"], "student": {**TINY, "init": {"job": posted["id"]}}}}
    assert "has no best.safetensors" in client.post("/jobs", json=upload_again).text
