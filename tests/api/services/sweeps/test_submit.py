"""Posting a sweep: its jobs, its faults, its dry run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.database import Database
from api.services.lifecycle import dependents
from api.services.submission import datasets
from tests.support.databases import ONE_DATABASE
from tests.support.specs import errors
from tests.support.sweeps import order, train
from tests.support.worker_calls import Worker

Refuse = Callable[..., dict[str, str]]


@pytest.fixture
def refuse(client: TestClient, spec: dict[str, Any]) -> Refuse:
    """Post the sweep with changes; the faults of the 422."""

    def post(**changes: Any) -> dict[str, str]:
        found = errors(client.post("/sweeps", json=order(spec, **changes)))
        assert client.get("/jobs").json()["items"] == []
        return found

    return post


def test_every_arm_and_seed_becomes_a_job(client: TestClient, spec: dict[str, Any]) -> None:
    answer = client.post("/sweeps", json=order(spec, labels={"team": "cells"}, priority=7))

    assert answer.status_code == 201, answer.text
    sweep = answer.json()
    assert answer.headers["location"] == f"/sweeps/{sweep['id']}"
    assert (sweep["name"], sweep["status"], sweep["baseline"], sweep["jobs"]) == (
        "a sweep",
        "waiting",
        "alone",
        {"queued": 4},
    )
    assert [(one["arm"], one["seed"], one["status"]) for one in sweep["children"]] == [
        ("alone", 1, "queued"), ("alone", 2, "queued"), ("faster", 1, "queued"), ("faster", 2, "queued"),
    ]  # fmt: skip
    job = client.get(f"/jobs/{sweep['children'][3]['job']}").json()
    assert job["name"] == "a sweep / faster / seed 2"
    assert job["labels"] == {"team": "cells", "sweep": sweep["id"], "arm": "faster", "seed": "2"}
    assert (job["kind"], job["priority"]) == ("train", 7)
    assert (job["spec"]["seed"], job["spec"]["optimizer"]["lr"], job["spec"]["optimizer"]["momentum"]) == (2, 0.02, 0.9)
    found = client.get("/jobs", params={"label": [f"sweep={sweep['id']}", "arm=alone"]}).json()["items"]
    assert [one["id"] for one in found] == [sweep["children"][1]["job"], sweep["children"][0]["job"]]
    assert {key: value for key, value in sweep.items() if key not in ("notes", "warnings")} == client.get(
        f"/sweeps/{sweep['id']}"
    ).json()
    assert any("no worker on the CPU" in note for note in sweep["notes"])
    assert not any("no interval" in note for note in sweep["notes"])


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": [1]}, True),
        ({"seeds": [1], "arms": {"alone": {}}}, False),  # nothing to compare
        ({"seeds": [1], "grid": {"optimizer.momentum": [0.8, 0.9]}}, False),  # two pairs for each arm
    ],
)
def test_one_pair_for_each_arm_is_told_to_have_no_interval(
    client: TestClient, spec: dict[str, Any], changes: dict[str, Any], told: bool
) -> None:
    plan = client.post("/sweeps?dry_run=true", json=order(spec, **changes)).json()
    assert any("one pair for each arm, which has no interval" in note for note in plan["notes"]) is told


@ONE_DATABASE
def test_each_job_keeps_what_was_found_in_its_own_data(client: TestClient, spec: dict[str, Any]) -> None:
    spec["data"]["classes"] = ["ring"]
    sweep = client.post("/sweeps", json=order(spec, seeds=[1])).json()
    for child in sweep["children"]:
        warnings = client.get(f"/jobs/{child['job']}").json()["warnings"]
        assert [found["pointer"] for found in warnings] == [f"/spec/data/{one}/annotations" for one in ("train", "val")]
        assert {found["kind"] for found in warnings} == {"other_class"}


@ONE_DATABASE
def test_an_unknown_key_stands_where_it_was_written_once(refuse: Refuse) -> None:
    arms = {"alone": {}, "pkd": {"distill": {"foo": 1}, "optimizer": {"lr": -1}}, "other": {"nonsense": None}}
    found = refuse(arms=arms, seeds=[1, 2, 3])
    assert {"/arms/pkd/distill/foo", "/arms/pkd/optimizer/lr", "/arms/other/nonsense"} == set(found)


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"seeds": [1, 2, 1]}, "/seeds/2", "seed 1 is given twice"),
        ({"seeds": []}, "/seeds", "at least 1"),
        ({"seeds": [True]}, "/seeds/0", "integer"),
        ({"arms": {}}, "/arms", "at least 1"),
        ({"arms": {"a b": {}}}, "/arms/a b", "match"),
        ({"baseline": "none"}, "/baseline", "no arm 'none'"),
        ({"arms": {"alone": {"seed": 3}}}, "/arms/alone/seed", "no seed of its own"),
        ({"labels": {"arm": "x"}}, "/labels/arm", "the service itself"),
        ({"seeds": list(range(101))}, "/arms", "would be 202 jobs, and at most 200"),
        ({"grid": {"optimizer.lr": [i / 1000 for i in range(1, 101)]}, "seeds": [0, 1]}, "/arms", "would be 400 jobs"),
        ({"grid": {"optimizer.lr": [0.1, 0.1]}}, "/grid/optimizer.lr/1", "0.1 is given twice"),
        ({"grid": {"optimizer.weight_decay": [0, 0.0]}}, "/grid/optimizer.weight_decay", "the same job of arm alone"),
        (
            {"grid": {"optimizer.lr": [0.1, 0.2], "optimizer": [{"lr": 0.3}, {"lr": 0.4}]}},
            "/grid/optimizer.lr",
            "lr=0.1, optimizer={\"lr\": 0.3}; and optimizer.lr=0.2, optimizer={\"lr\": 0.3}",
        ),
        ({"grid": {"optimizer.lr": [0.1, -1]}}, "/grid/optimizer.lr", "greater than 0"),
        ({"grid": {"distill.crosskd.cls_weight": [1, 2]}}, "/grid/distill.crosskd.cls_weight", "no arm has this knob"),
        ({"grid": {"optimizer.foo": [1]}}, "/grid/optimizer.foo", "not permitted"),
        ({"grid": {"seed": [1]}}, "/grid/seed", "no place for seeds"),
        ({"grid": {"Not a path": [1]}}, "/grid/Not a path", "match"),
        ({"teacher": {"student": {}}}, "/teacher/student/backbone", "required"),
        ({"arms": {"alone": {}, "x": {"distill": {"crosskd": {}}}}}, "/arms/x/distill", "distill needs a teacher"),
        ({"arms": {"alone": {"optimizer": {"lr": "a\0b"}}}}, "/arms/alone/optimizer/lr", "NUL"),
        ({"arms": {"x": {"data": {"val": {"annotations": "gone.json"}}}}}, "/arms/x/data/val/annotations", "not exist"),
        ({"nonsense": 1}, "/nonsense", "not permitted"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place(refuse: Refuse, changes: dict[str, Any], where: str, what: str) -> None:
    found = refuse(**changes)
    assert what in found[where], found


@ONE_DATABASE
def test_a_fault_of_the_base_is_told_once(client: TestClient, spec: dict[str, Any]) -> None:
    spec["student"]["head"] = {"depth": -1}
    spec["data"]["train"] = {**spec["data"]["train"], "annotations": "gone.json"}
    found = errors(client.post("/sweeps", json=order(spec)))
    assert set(found) == {"/base/student/head/depth", "/base/data/train/annotations"}


@ONE_DATABASE
def test_arms_are_compared_on_the_same_images(client: TestClient, spec: dict[str, Any]) -> None:
    arms = {"alone": {}, "fewer": {"data": {"classes": ["ring"]}}, "counted": {"evaluation": {"as_is": True}}}
    found = errors(client.post("/sweeps", json=order(spec, arms=arms)))
    assert "other classes than alone" in found["/arms/fewer/data/classes"]
    assert "cannot be compared" in found["/arms/counted/evaluation/as_is"]


@ONE_DATABASE
def test_two_hundred_jobs_look_at_their_data_once(
    client: TestClient, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    real = datasets.examine
    monkeypatch.setattr(datasets, "examine", lambda *given: looked.append(given) or real(*given))
    answer = client.post("/sweeps", json=order(spec, seeds=list(range(100))))
    assert answer.status_code == 201, answer.text
    assert len(answer.json()["children"]) == 200
    assert len(looked) == 2  # the training file and the validation file


def test_a_dry_run_lists_the_jobs_and_stores_nothing(client: TestClient, spec: dict[str, Any], worker: Worker) -> None:
    grid = {"optimizer.momentum": [0.8, 0.9]}
    answer = client.post("/sweeps?dry_run=true", json=order(spec, seeds=[1], grid=grid))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [(job["arm"], job["seed"], job["point"]) for job in told["jobs"]] == [
        (arm, 1, {"optimizer.momentum": momentum}) for arm in ("alone", "faster") for momentum in (0.8, 0.9)
    ]
    assert told["jobs"][0]["name"] == "a sweep / alone / optimizer.momentum=0.8 / seed 1"
    assert len({job["spec_sha256"] for job in told["jobs"]}) == 4
    assert (told["estimated_seconds"], told["jobs"][0]["estimated_seconds"]) == (None, None)
    assert "no estimate" in told["estimate"]
    assert client.get("/jobs").json()["items"] == client.get("/sweeps").json()["items"] == []


def test_time_is_estimated_from_jobs_of_the_same_shape(
    client: TestClient, spec: dict[str, Any], worker: Worker
) -> None:
    made = client.post("/sweeps", json=order(spec)).json()
    for child, seconds in zip(made["children"][:3], (10.0, 20.0, 90.0), strict=True):
        train(worker, child["job"], 0.3, seconds=seconds, steps=10)
    batch, images = 16, 1  # the defaults of the specification, and what its file holds
    rate = 20.0 / (10 * batch)
    arms = {"alone": {}, "wider": {"student": {"backbone": {"width": 32}}}}
    told = client.post("/sweeps?dry_run=true", json=order(spec, arms=arms, seeds=[1])).json()
    epochs = 12
    assert told["jobs"][0]["estimated_seconds"] == pytest.approx(rate * epochs * images, abs=0.1)
    assert told["jobs"][1]["estimated_seconds"] is None
    assert told["estimated_seconds"] is None
    assert "of 1 of the 2 jobs there is no such job yet" in told["estimate"]
    same = client.post("/sweeps?dry_run=true", json=order(spec)).json()
    assert same["estimated_seconds"] == pytest.approx(4 * rate * epochs * images, abs=0.4)


def test_a_repeated_order_is_one_sweep(client: TestClient, spec: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/sweeps", json=order(spec), headers=headers)
    again = client.post("/sweeps", json=order(spec), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert len(client.get("/sweeps").json()["items"]) == 1
    assert client.post("/sweeps", json=order(spec, seeds=[3]), headers=headers).status_code == 422


def test_a_grid_is_for_the_arms_that_have_its_knobs(client: TestClient, spec: dict[str, Any], worker: Worker) -> None:
    teacher = client.post("/jobs", json={"kind": "train", "name": "t", "spec": spec}).json()["id"]
    train(worker, teacher, 0.5)
    base = {**spec, "teacher": {"weights": {"job": teacher}}}
    arms = {"alone": {"distill": None}, "crosskd": {}, "pkd": {"distill": {"pkd": {}}}}
    grid = {"distill.crosskd.cls_weight": [1, 2]}
    made = client.post("/sweeps", json=order(base, arms=arms, grid=grid, seeds=[0]))
    assert made.status_code == 201, made.text
    assert [(one["arm"], one["point"]) for one in made.json()["children"]] == [
        ("alone", {}),
        ("crosskd", {"distill.crosskd.cls_weight": 1}),
        ("crosskd", {"distill.crosskd.cls_weight": 2}),
        ("pkd", {}),
    ]
    jobs = [client.get(f"/jobs/{one['job']}").json() for one in made.json()["children"]]
    assert [job["kind"] for job in jobs] == ["train", "distill", "distill", "distill"]
    assert jobs[0]["spec"]["teacher"] is None
    assert [job["spec"]["distill"]["crosskd"]["cls_weight"] for job in jobs[1:3]] == [1, 2]
    assert jobs[3]["spec"]["distill"]["crosskd"] is None
    assert jobs[1]["labels"]["point"] == "distill.crosskd.cls_weight=1"


def test_a_teacher_is_trained_first_and_waited_for(
    client: TestClient, spec: dict[str, Any], worker: Worker, database: Database
) -> None:
    teacher = {"student": {**spec["student"], "backbone": {"name": "resnet_tiny", "width": 16}}, "seed": 9}
    arms = {"alone": {"distill": None}, "crosskd": {}}
    body = order(spec, arms=arms, teacher=teacher, seeds=[1])
    plan = client.post("/sweeps?dry_run=true", json=body).json()
    assert [(job["role"], job["arm"], job["kind"], job["seed"]) for job in plan["jobs"]] == [
        ("teacher", None, "train", 9), ("arm", "alone", "train", 1), ("arm", "crosskd", "distill", 1),
    ]  # fmt: skip
    assert client.post("/sweeps?dry_run=true", json=body).json() == plan
    answer = client.post("/sweeps", json=body)
    assert answer.status_code == 201, answer.text
    sweep = answer.json()
    first, alone, crosskd = (child["job"] for child in sweep["children"])
    assert [child["status"] for child in sweep["children"]] == ["queued", "queued", "waiting"]
    job = client.get(f"/jobs/{crosskd}").json()
    assert job["spec"]["teacher"]["weights"] == {"job": first, "checkpoint": "best"}
    assert job["spec"]["teacher"]["model"]["backbone"]["width"] == 16
    assert client.get(f"/jobs/{first}").json()["labels"]["role"] == "teacher"

    train(worker, first, 0.5)
    train(worker, alone, 0.2)
    dependents.settle(database)
    train(worker, crosskd, 0.35)
    found = client.get(f"/sweeps/{sweep['id']}").json()
    assert (found["status"], found["teacher"]) == ("finished", {"job": first, "status": "succeeded", "ap": 0.5})
    assert found["results"][1]["gap_closed"] == pytest.approx(0.5)


def test_a_teacher_that_failed_is_retried_with_its_students(
    client: TestClient, spec: dict[str, Any], worker: Worker, database: Database
) -> None:
    arms = {"alone": {"distill": None}, "crosskd": {}}
    made = client.post("/sweeps", json=order(spec, arms=arms, teacher={"student": spec["student"]}, seeds=[1])).json()
    first, alone, crosskd = (child["job"] for child in made["children"])
    worker.claim(first)
    worker.finish("failed", failure={"failure_class": "diverged", "message": "loss is NaN"})
    dependents.settle(database)
    failed = client.get(f"/sweeps/{made['id']}").json()
    assert failed["jobs"] == {"failed": 2, "queued": 1}
    assert any("crosskd" in line and "(dependency)" in line for line in failed["answer"])

    again = client.post(f"/sweeps/{made['id']}/retry").json()
    assert [child["status"] for child in again["children"]] == ["queued", "queued", "waiting"]
    assert again["children"][1]["job"] == alone
    new = client.get(f"/jobs/{again['children'][2]['job']}").json()
    assert (new["retried_from"], new["spec"]["teacher"]["weights"]["job"]) == (crosskd, again["children"][0]["job"])


@ONE_DATABASE
def test_null_is_the_student_alone_in_a_grid_as_in_an_arm(client: TestClient, spec: dict[str, Any]) -> None:
    more: dict[str, Any] = {"teacher": {"student": spec["student"]}, "seeds": [1]}
    both = order(spec, arms={"on": {}, "off": {"distill": None}}, **more)
    _, *arms = client.post("/sweeps?dry_run=true", json=both).json()["jobs"]
    both = order(spec, arms={"on": {}}, grid={"distill": [{}, None]}, **more)
    _, *points = client.post("/sweeps?dry_run=true", json=both).json()["jobs"]
    assert [job["kind"] for job in points] == ["distill", "train"]
    assert points[1]["spec_sha256"] == arms[1]["spec_sha256"]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"arms": {"alone": {}, "off": {"distill": None}}}, "/teacher", None),
        ({"arms": {"x": {}}, "grid": {"distill": [None]}}, "/teacher", "no arm would learn"),
        ({"arms": {"x": {}}, "grid": {"teacher": [None]}}, "/teacher", "no arm would learn"),
        ({"arms": {"alone": {"distill": None}}}, "/teacher", "no arm would learn"),
        ({"arms": {"alone": {"distill": None}, "x": {"distill": {"foo": 1}}}}, "/arms/x/distill/foo", "not permitted"),
        ({"arms": {"x": {"student": {"head": {"depth": -1}}}}}, "/arms/x/student/head/depth", "greater than"),
    ],
)
def test_faults_beside_a_teacher(
    client: TestClient, spec: dict[str, Any], changes: dict[str, Any], where: str, what: str | None
) -> None:
    answer = client.post("/sweeps?dry_run=true", json=order(spec, teacher={"student": spec["student"]}, **changes))
    if what is None:  # one that learns is enough
        assert answer.status_code == 200, answer.text
        return
    assert what in errors(answer)[where]


@ONE_DATABASE
def test_a_teacher_that_is_at_fault_is_told_with_the_arms(client: TestClient, spec: dict[str, Any]) -> None:
    teacher = {"student": {"backbone": {"name": "os.system"}}}
    arms = {"alone": {"distill": None}, "x": {"optimizer": {"lr": -1}}}
    found = errors(client.post("/sweeps", json=order(spec, arms=arms, teacher=teacher)))
    assert set(found) == {"/teacher/student/backbone/name", "/arms/x/optimizer/lr"}
