"""Stop, pause, resume, retry, delete: what each does in each state, and that repeating it changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.database import Database
from api.models import Base, DeletedJob, Job, Outbox
from api.services.files import artifacts
from api.services.submission import validation
from api.settings import Settings
from tests.support.evaluations import report_best
from tests.support.leases import reap_after
from tests.support.specs import write_weights
from tests.support.worker_calls import Worker, checkpoint, upload

PostJob = Callable[..., str]
USER = {"failure_class": "user", "message": "no"}


@pytest.fixture
def act(client: TestClient) -> Callable[..., Any]:
    """Do something to a job; the answer, which has to be the same when it is done again."""

    def act(job: str, action: str, status: int = 200) -> Any:
        path = f"/jobs/{job}" if action == "delete" else f"/jobs/{job}/{action}"
        answers = [client.request("DELETE" if action == "delete" else "POST", path) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [status] * 2, answers[0].text
        told = [answer.json() if answer.content else None for answer in answers]
        if status >= 400:
            assert told[0].pop("request_id") != told[1].pop("request_id")
        assert told[0] == told[1]
        return told[0]

    return act


Act = Callable[..., Any]


def refusal(answer: Any) -> tuple[str, str]:
    assert answer["type"] == "/problems/conflict"
    return answer["detail"], answer["remedy"]


def statuses(job: Any) -> list[str]:
    return [change["to_status"] for change in job["transitions"]]


# --- stop ------------------------------------------------------------------------------------------------------------


def test_a_stop_is_told_to_the_worker_which_ends_well(act: Act, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    asked = act(job, "stop")
    assert (asked["status"], asked["stop_requested_at"] is not None) == ("running", True)
    assert worker.post("heartbeat").json()["command"] == "stop"
    assert worker.get("commands?wait=20").json() == {"command": "stop"}
    manifest = {"stopped_early": True, "steps": 7, "stop_reason": "on request"}
    assert worker.finish("succeeded", result=manifest).json()["status"] == "succeeded"

    ended = act(job, "stop")  # an answer that got lost may be asked for again
    assert (ended["status"], ended["stopped_early"]) == ("succeeded", True)
    assert ended["transitions"][-1]["reason"] == "attempt 1 stopped early after step 7: on request"


def test_a_stop_outlives_its_attempt(act: Act, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    act(job, "stop")
    assert worker.finish("released").json()["status"] == "queued"
    worker.claim(job)
    assert worker.get("commands?wait=0").json() == {"command": "stop"}


def test_a_queued_training_is_stopped_once_it_has_something_to_keep(
    act: Act, post_job: PostJob, worker: Worker
) -> None:
    job = post_job()
    assert refusal(act(job, "stop", 409)) == ("the job is queued", "Possible now: cancel, pause.")
    worker.claim(job)
    checkpoint(worker, 10)
    worker.finish("released")
    assert act(job, "stop")["status"] == "queued"


@pytest.mark.parametrize(
    ("end", "detail", "possible"),
    [
        ("succeeded", "the job has succeeded", "delete"),
        ("failed", "the job has failed", "retry, delete"),
        ("cancelled", "the job was cancelled", "retry, delete"),
    ],
)
def test_a_job_at_its_end_is_told_what_is_possible(
    act: Act, post_job: PostJob, worker: Worker, end: str, detail: str, possible: str
) -> None:
    job = post_job()
    worker.claim(job)
    if end == "cancelled":
        act(job, "cancel")
    worker.finish(end, failure=USER if end == "failed" else None)
    wrong = {"stop", "pause", "resume"} | ({"retry"} if end == "succeeded" else set())
    for action in wrong | ({"cancel"} if end != "cancelled" else set()):
        assert refusal(act(job, action, 409)) == (detail, f"Possible now: {possible}."), action


def test_what_is_no_training_cannot_be_stopped_or_paused(
    act: Act, client: TestClient, spec: dict[str, Any], root: Path, worker: Worker
) -> None:
    weights = {"file": str(write_weights(root / "weights.safetensors"))}
    body = {"weights": weights, "data": {"val": spec["data"]["val"]}}
    answer = client.post("/jobs", json={"kind": "evaluate", "name": "e", "spec": body})
    job = answer.json()["id"]
    assert not {"stop", "pause", "resume", "weights"} & answer.json()["links"].keys()
    detail = "the job is queued, and of kind evaluate: it has no checkpoints"
    assert refusal(act(job, "pause", 409)) == (detail, "Possible now: cancel.")
    worker.claim(job)
    detail = "the job is running, and of kind evaluate: it has no checkpoints"
    assert refusal(act(job, "stop", 409)) == (detail, "Possible now: cancel.")
    worker.finish("failed", failure=USER)
    assert act(job, "retry", 201)["transitions"][0]["reason"] == f"retry of {job}, from the beginning"


# --- pause and resume ------------------------------------------------------------------------------------------------


def test_a_running_job_is_paused_by_its_worker_and_goes_on(
    act: Act, client: TestClient, post_job: PostJob, worker: Worker, database: Database
) -> None:
    job = post_job()
    worker.claim(job)
    asked = act(job, "pause")
    assert (asked["status"], asked["pause_requested_at"] is not None) == ("running", True)
    assert refusal(act(job, "stop", 409)) == ("the job is being paused", "Possible now: cancel, resume.")
    assert worker.get("commands?wait=20").json() == {"command": "pause"}
    checkpoint(worker, 30)
    assert worker.finish("released").json() == {"job": job, "status": "paused", "retried": False}

    assert act(job, "pause")["status"] == "paused"
    assert [item["id"] for item in client.get("/jobs?status=paused").json()["items"]] == [job]
    assert worker.claim(job).status_code == 409
    assert refusal(act(job, "stop", 409)) == ("the job is paused", "Possible now: cancel, resume.")
    with database.reading() as session:
        assert session.scalars(select(Outbox)).all() == []

    resumed = act(job, "resume")
    assert (resumed["status"], resumed["pause_requested_at"]) == ("queued", None)
    with database.reading() as session:
        assert len(session.scalars(select(Outbox)).all()) == 1
    claim = worker.claim(job).json()
    assert (claim["resume"]["step"], claim["fencing_token"]) == (30, 2)
    assert worker.get("commands?wait=0").json() == {"command": None}
    assert act(job, "resume")["status"] == "running"
    found = client.get(f"/jobs/{job}").json()
    assert statuses(found) == ["queued", "running", "paused", "queued", "running"]
    assert [change["reason"] for change in found["transitions"][2:4]] == ["paused by the user", "resumed by the user"]
    assert act(job, "pause")["pause_requested_at"] is not None  # and once more
    assert worker.finish("released").json()["status"] == "paused"


def test_a_queued_job_is_paused_at_once(act: Act, post_job: PostJob, worker: Worker, database: Database) -> None:
    job = post_job()
    assert act(job, "pause")["status"] == "paused"
    with database.reading() as session:
        assert session.scalars(select(Outbox)).all() == []
    assert worker.claim(job).status_code == 409
    assert act(job, "resume")["status"] == "queued"
    assert worker.claim(job).status_code == 200


def test_a_paused_job_is_cancelled_at_once(act: Act, post_job: PostJob) -> None:
    job = post_job()
    act(job, "pause")
    assert statuses(act(job, "cancel")) == ["queued", "paused", "cancelled"]


def test_a_resume_takes_a_pause_back(act: Act, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    assert refusal(act(job, "resume", 409)) == ("the job is running", "Possible now: cancel, pause, stop.")
    act(job, "pause")
    resumed = act(job, "resume")
    assert (resumed["status"], resumed["pause_requested_at"]) == ("running", None)
    assert worker.get("commands?wait=0").json() == {"command": None}
    assert worker.finish("released").json()["status"] == "queued"  # had it heard of the pause before


def test_a_cancel_goes_before_a_pause_and_a_pause_before_a_stop(act: Act, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    for action in ("stop", "pause", "cancel"):
        act(job, action)
        assert worker.post("heartbeat").json()["command"] == action
    for action in ("pause", "resume"):
        assert refusal(act(job, action, 409)) == ("the job is being cancelled", "Wait until it has ended.")
    assert worker.finish("cancelled").json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("failure_class", "status"), [("infrastructure", "paused"), ("lost", "paused"), ("diverged", "failed")]
)
def test_a_pause_whose_attempt_fails(
    act: Act, post_job: PostJob, worker: Worker, failure_class: str, status: str
) -> None:
    job = post_job()
    worker.claim(job)
    act(job, "pause")
    failure = {"failure_class": failure_class, "message": "it broke"}
    assert worker.finish("failed", failure=failure).json() == {"job": job, "status": status, "retried": False}


def test_a_lost_job_that_was_to_be_paused_is(
    act: Act, client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    job = post_job()
    worker.claim(job)
    act(job, "pause")
    assert reap_after(database, settings, 60) == 1
    found = client.get(f"/jobs/{job}").json()
    assert found["status"] == "paused"
    assert found["transitions"][-1]["reason"].endswith("; paused by the user")


def test_a_command_that_is_known_is_held_until_another_comes(act: Act, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    act(job, "stop")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(worker.get, "commands?wait=30&known=stop")
        time.sleep(0.3)
        assert not held.done()
        act(job, "pause")
        assert held.result(timeout=25).json() == {"command": "pause"}  # the wait alone would end after 30 s
    act(job, "resume")
    assert worker.get("commands?wait=30&known=pause").json() == {"command": "stop"}
    assert worker.get("commands?known=nonsense").status_code == 422


# --- retry -----------------------------------------------------------------------------------------------------------


def test_a_retry_starts_from_the_last_checkpoint(
    act: Act, client: TestClient, post_job: PostJob, worker: Worker
) -> None:
    job = post_job("mine", labels={"team": "a"})
    worker.claim(job)
    report_best(worker, 0, 0.9, "teacher")
    report_best(worker, 10, 0.2)
    checkpoint(worker, 20)
    report_best(worker, 30, 0.4)
    worker.finish("failed", failure=USER)

    again = act(job, "retry", 201)
    assert client.post(f"/jobs/{job}/retry").headers["location"] == f"/jobs/{again['id']}"
    assert (again["id"] != job, again["retried_from"], again["status"]) == (True, job, "queued")
    assert (again["name"], again["labels"], again["failure"]) == ("mine", {"team": "a"}, None)
    assert again["spec"] == client.get(f"/jobs/{job}").json()["spec"]
    assert again["transitions"][0]["reason"] == f"retry of {job}, from step 20"
    assert client.get("/jobs?label=team=a").json()["items"][0]["id"] == again["id"]

    claim = worker.claim(again["id"]).json()
    assert claim["resume"]["url"] == f"/jobs/{job}/artifacts/checkpoint-00000020.pt"
    found = client.get(f"/jobs/{again['id']}").json()
    assert found["attempts"][0]["resumed_from_step"] == 20
    assert (found["best_ap"], found["teacher_ap"]) == (0.2, 0.9)  # what the checkpoint holds, not what came behind it
    assert client.get(f"/jobs/{job}").json()["status"] == "failed"

    report_best(worker, 30, 0.3)
    worker.finish("released")
    worker.claim(again["id"])  # without a checkpoint of its own it starts there once more
    assert client.get(f"/jobs/{again['id']}").json()["attempts"][1]["resumed_from_step"] == 20
    assert client.get(f"/jobs/{again['id']}").json()["best_ap"] == 0.2
    checkpoint(worker, 40)
    worker.finish("released")
    assert worker.claim(again["id"]).json()["resume"]["step"] == 40
    assert client.get(f"/jobs/{again['id']}").json()["best_ap"] == 0.2


def test_a_retry_of_a_retry_that_made_nothing(act: Act, client: TestClient, post_job: PostJob, worker: Worker) -> None:
    first = post_job()
    worker.claim(first)
    report_best(worker, 10, 0.2)
    checkpoint(worker, 20)
    act(first, "cancel")
    worker.finish("cancelled")
    second = act(first, "retry", 201)["id"]
    act(second, "cancel")
    third = act(second, "retry", 201)
    assert (third["retried_from"], third["best_ap"]) == (second, 0.2)
    assert worker.claim(third["id"]).json()["resume"]["url"].startswith(f"/jobs/{first}/")
    assert refusal(act(third["id"], "retry", 409))[0] == "the job is running"


def test_many_retries_at_once_make_one_job(act: Act, client: TestClient, post_job: PostJob, database: Database) -> None:
    job = post_job()
    act(job, "cancel")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(f"/jobs/{job}/retry"), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    with database.reading() as session:
        assert len(session.scalars(select(Job)).all()) == 2


# --- delete ----------------------------------------------------------------------------------------------------------


def test_delete_takes_everything_along(
    act: Act, client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    kept = post_job("kept", labels={"a": "b"})
    job = post_job("gone", labels={"a": "b"})
    worker.claim(job)
    point = {"key": "loss", "step": 1, "value": 1.0, "at": "2026-01-01T00:00:00Z"}
    worker.post("metrics", {"sequence": 0, "points": [point]})
    report_best(worker, 10, 0.2)
    checkpoint(worker, 10)
    upload(worker, "best.safetensors", b"weights")
    assert refusal(act(job, "delete", 409)) == ("the job is running", "Possible now: cancel, pause, stop.")
    worker.finish("succeeded")
    download = client.get(f"/jobs/{job}/weights")
    assert [path.name for path in settings.storage.rglob("*") if path.is_file()] != []

    assert act(job, "delete", 204) is None
    assert download.content == b"weights"
    assert [path for path in settings.storage.rglob("*") if path.is_file()] == []
    for path in ("", "/weights", "/metrics", "/artifacts"):
        assert client.get(f"/jobs/{job}{path}").status_code == 404
    assert [item["id"] for item in client.get("/jobs").json()["items"]] == [kept]
    assert client.get(f"/jobs/{kept}").json()["labels"] == {"a": "b"}
    with database.reading() as session:
        for table in Base.metadata.tables.values():
            if "job_id" in table.c:
                assert session.execute(select(table).where(table.c.job_id == job)).all() == [], table.name
            if "attempt_id" in table.c:
                assert session.execute(select(table)).all() == [], table.name
        assert session.scalars(select(DeletedJob.id)).all() == [job]
    assert worker.post("heartbeat").status_code == 404


@pytest.mark.parametrize("status", ["queued", "paused"])
def test_a_job_that_still_waits_is_not_deleted(act: Act, client: TestClient, post_job: PostJob, status: str) -> None:
    job = post_job()
    if status == "paused":
        act(job, "pause")
    assert refusal(act(job, "delete", 409))[0] == f"the job is {status}"
    assert client.get(f"/jobs/{job}").json()["status"] == status


@pytest.mark.parametrize("job", ["0" * 32, "nonsense"])
@pytest.mark.parametrize("action", ["cancel", "stop", "pause", "resume", "retry", "delete"])
def test_a_job_that_there_is_not(act: Act, action: str, job: str) -> None:
    act(job, action, 404)


def test_what_another_job_needs_is_not_deleted(
    act: Act, client: TestClient, post_job: PostJob, worker: Worker, spec: dict[str, Any], root: Path
) -> None:
    former = post_job()
    worker.claim(former)
    checkpoint(worker, 10)
    act(former, "cancel")
    worker.finish("cancelled")
    again = act(former, "retry", 201)["id"]
    detail, remedy = refusal(act(former, "delete", 409))
    assert detail == f"the job {again} still needs a file of this one"
    assert f"/jobs/{again}/cancel" in remedy
    act(again, "cancel")
    act(former, "delete", 204)
    # It started from what is gone now, and so does whoever retries it: from the beginning.
    third = act(again, "retry", 201)
    assert worker.claim(third["id"]).json()["resume"] is None

    teacher = post_job()
    worker.claim(teacher)
    upload(worker, "best.safetensors", write_weights(root / "w.safetensors").read_bytes())
    worker.finish("succeeded")
    weights = {"weights": {"job": teacher}}
    measure = {"kind": "evaluate", "name": "e", "spec": {**weights, "data": {"val": spec["data"]["val"]}}}
    distil = {"kind": "distill", "name": "d", "spec": {**spec, "teacher": weights, "distill": {"crosskd": {}}}}
    for order in (measure, distil):
        answer = client.post("/jobs", json=order)
        assert answer.status_code == 201, answer.text
        user = answer.json()["id"]
        assert refusal(act(teacher, "delete", 409))[0] == f"the job {user} still needs a file of this one"
        act(user, "cancel")
    act(teacher, "delete", 204)
    detail, _ = refusal(act(user, "retry", 409))
    assert detail == f"the weights of the job {teacher}, which this one needs, are gone"


def test_weights_that_go_while_a_job_is_posted(
    act: Act,
    client: TestClient,
    post_job: PostJob,
    worker: Worker,
    spec: dict[str, Any],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Validation takes its time, and locks nothing; what it saw may be gone when the job is stored."""
    teacher = post_job()
    worker.claim(teacher)
    upload(worker, "best.safetensors", write_weights(root / "w.safetensors").read_bytes())
    worker.finish("succeeded")
    resolve = validation.resolve

    def and_delete(*arguments: Any) -> Any:
        spec = resolve(*arguments)
        act(teacher, "delete", 204)
        return spec

    monkeypatch.setattr(validation, "resolve", and_delete)
    order = {
        "kind": "evaluate",
        "name": "e",
        "spec": {"weights": {"job": teacher}, "data": {"val": spec["data"]["val"]}},
    }
    answer = client.post("/jobs", json=order)
    assert answer.status_code == 409, answer.text
    assert refusal(answer.json())[0] == f"the weights of the job {teacher}, which this one needs, are gone"
    assert client.get("/jobs").json()["items"] == []


def test_files_of_a_deleted_job_that_stayed_are_swept(
    act: Act, client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    """As after a crash between the commit and the removal of the files."""
    job = post_job()
    worker.claim(job)
    upload(worker, "best.safetensors", b"weights")
    worker.finish("succeeded")
    (path,) = [path for path in settings.storage.rglob("*") if path.is_file()]
    act(job, "delete", 204)
    path.parent.mkdir()
    path.write_bytes(b"weights")
    assert artifacts.sweep(database, client.app.state.storage, older_than=-1) == 1  # type: ignore[attr-defined]
    assert not path.exists()
