"""Jobs that wait for the weights of jobs that are still on their way: when they begin, and when they never will."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, select

from api.database import Database
from api.models import Job, JobDependency, Outbox
from api.services.lifecycle import dependents
from api.settings import Settings
from tests.support.specs import CLASSES, TINY, errors, write_weights
from tests.support.worker_calls import Worker, upload

PostJob = Callable[..., str]
DIVERGED = {"failure_class": "diverged", "message": "the loss is NaN"}


class Service:
    """What the tests do to the service, and what they see of it."""

    def __init__(self, client: TestClient, database: Database, spec: dict[str, Any]) -> None:
        self.client, self.database, self.spec = client, database, spec

    def post(self, kind: str = "train", **changes: Any) -> dict[str, Any]:
        return self.client.post("/jobs", json=self.order(kind, **changes)).json()  # type: ignore[no-any-return]

    def order(self, kind: str = "train", **changes: Any) -> dict[str, Any]:
        spec = changes if kind in ("evaluate", "export") else {**self.spec, "student": TINY, **changes}
        return {"kind": kind, "name": kind, "spec": spec}

    def needing(self, job: str, use: str = "teacher", checkpoint: str = "best") -> str:
        """A job that needs the weights of another."""
        weights = {"job": job, "checkpoint": checkpoint}
        match use:
            case "teacher":
                order = self.order("distill", teacher={"weights": weights})
            case "init":
                order = self.order("train", student={**TINY, "init": weights})
            case "evaluate":
                order = self.order("evaluate", weights=weights, data={"val": self.spec["data"]["val"]})
            case _:
                order = self.order("export", weights=weights)
        answer = self.client.post("/jobs", json=order)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def act(self, job: str, action: str, status: int = 200) -> Any:
        answer = self.client.post(f"/jobs/{job}/{action}")
        assert answer.status_code == status, answer.text
        return answer.json()

    def job(self, job: str) -> Any:
        return self.client.get(f"/jobs/{job}").json()

    def path(self, job: str) -> list[str]:
        return [change["to_status"] for change in self.job(job)["transitions"]]

    def run(self, job: str, outcome: str, *names: str, **more: Any) -> None:
        worker = Worker(self.client)
        assert worker.claim(job).status_code == 200
        for name in names:
            upload(worker, name, b"weights")
        assert worker.finish(outcome, **more).status_code == 200

    def settle(self) -> int:
        return dependents.settle(self.database)

    def messages(self, job: str) -> int:
        with self.database.reading() as session:
            return len(session.scalars(select(Outbox.id).where(Outbox.job_id == job)).all())


@pytest.fixture
def service(client: TestClient, database: Database, spec: dict[str, Any]) -> Service:
    return Service(client, database, spec)


@pytest.mark.parametrize(
    ("use", "role"), [("teacher", "teacher"), ("init", "init"), ("evaluate", "weights"), ("export", "weights")]
)
def test_a_job_waits_and_begins_when_the_weights_are_there(service: Service, use: str, role: str) -> None:
    first = service.post()["id"]
    second = service.needing(first, use)
    found = service.job(second)
    assert (found["status"], found["queue_position"], service.messages(second)) == ("waiting", None, 0)
    assert found["waiting"] == f"it waits for the weights of job {first} (queued)"
    assert found["depends_on"] == [{"role": role, "job": first, "status": "queued"}]
    assert [item["id"] for item in service.client.get("/jobs?status=waiting").json()["items"]] == [second]
    assert Worker(service.client).claim(second).status_code == 409
    assert service.settle() == 0

    service.run(first, "succeeded", "best.safetensors")
    assert service.path(second) == ["waiting"]
    assert service.settle() == 1
    found = service.job(second)
    assert service.path(second) == ["waiting", "queued"]
    assert found["transitions"][-1]["reason"] == f"the weights of {first} are there"
    assert (found["queue_position"], service.messages(second), service.settle()) == (1, 1, 0)
    claim = Worker(service.client).claim(second).json()
    assert claim[role]["url"] == f"/jobs/{first}/artifacts/best.safetensors"


def test_what_is_there_already_is_not_waited_for(service: Service) -> None:
    first = service.post()["id"]
    service.run(first, "succeeded", "best.safetensors")
    assert service.path(service.needing(first)) == ["queued"]


def test_it_waits_for_every_one_of_them(service: Service) -> None:
    teacher, start = service.post()["id"], service.post()["id"]
    student = {**TINY, "init": {"job": start}}
    posted = service.post("distill", student=student, teacher={"weights": {"job": teacher}})
    wanted = f"it waits for the weights of job {teacher} (queued) and of job {start} (queued)"
    assert posted["waiting"] == wanted
    assert f"{wanted}; it is queued when they are there, and fails if they never will be" in posted["notes"]
    service.run(start, "succeeded", "best.safetensors")
    assert service.settle() == 0
    assert service.job(posted["id"])["waiting"] == f"it waits for the weights of job {teacher} (queued)"
    service.run(teacher, "succeeded", "best.safetensors")
    assert service.settle() == 1
    reason = service.job(posted["id"])["transitions"][-1]["reason"]
    assert reason == f"the weights of {start} and {teacher} are there"


@pytest.mark.parametrize(
    ("schedule", "phase", "told"),
    [
        ({"epochs": 12}, "training", "running, epoch 3 of 12"),
        ({"epochs": 12, "max_steps": 100}, "training", "running, step 25 of 100"),
        ({"epochs": 12}, "preparing", "running, preparing"),
    ],
)
def test_how_far_the_other_one_is(
    service: Service, worker: Worker, schedule: dict[str, int], phase: str, told: str
) -> None:
    first = service.post(schedule=schedule)["id"]
    second = service.needing(first)
    worker.claim(first)
    progress = {"phase": phase, "step": 25, "total_steps": 100, "epoch": 2.9}
    assert worker.post("metrics", {"sequence": 0, "points": [], "progress": progress}).status_code == 204
    assert service.job(second)["waiting"] == f"it waits for the weights of job {first} ({told})"
    service.act(first, "pause")
    worker.finish("released")
    assert f"(paused; POST /jobs/{first}/resume lets it go on)" in service.job(second)["waiting"]


@pytest.mark.parametrize("end", ["failed", "cancelled", "deleted"])
def test_a_job_fails_when_there_will_be_no_weights(service: Service, end: str) -> None:
    first = service.post()["id"]
    second = service.needing(first)
    if end == "failed":
        service.run(first, "failed", failure=DIVERGED)
    else:
        service.act(first, "cancel")
    if end == "deleted":
        assert service.client.delete(f"/jobs/{first}").status_code == 409  # the other one still waits for it
        with service.database.transaction() as session:  # as if it had been: nobody knows all ways of losing a row
            session.execute(delete(Job).where(Job.id == first))
    assert service.settle() == 1
    found = service.job(second)
    became = {
        "failed": f"{first} (train), which failed (diverged): the loss is NaN",
        "cancelled": f"{first} (train), which was cancelled",
        "deleted": f"{first}, which was deleted",
    }[end]
    failure = found["failure"]
    assert (found["status"], failure["failure_class"]) == ("failed", "dependency")
    assert failure["message"] == f"it needs the weights of job {became}"
    assert failure["where"] == "/spec/teacher/weights/job"
    retry = f"Retry that one (POST /jobs/{first}/retry), then this one: POST /jobs/{second}/retry."
    assert failure["remedy"] == ("Post the job again with the weights of another one." if end == "deleted" else retry)
    assert found["transitions"][-1]["reason"] == f"not started (dependency): {failure['message']}"
    assert (found["finished_at"] is not None, found["attempts"]) == (True, [])
    assert found["depends_on"][0]["status"] == (None if end == "deleted" else end)


def test_a_failure_runs_through_a_chain(service: Service) -> None:
    first = service.post()["id"]
    chain = [first]
    for _ in range(3):
        chain.append(service.needing(chain[-1], "init"))
    assert service.job(chain[2])["waiting"] == f"it waits for the weights of job {chain[1]} (waiting)"
    service.act(first, "cancel")
    assert service.settle() == 3
    assert [service.path(job)[-1] for job in chain] == ["cancelled", "failed", "failed", "failed"]
    assert f"{chain[2]} (train), which failed (dependency)" in service.job(chain[3])["failure"]["message"]


def test_more_wait_than_are_looked_up_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependents, "AT_ONCE", 2)
    first, other = service.post()["id"], service.post()["id"]
    waiting = [service.needing(job, "init") for job in (first, other, first, first, first)]
    service.run(first, "succeeded", "best.safetensors")
    assert service.settle() == 4
    assert [service.path(job)[-1] for job in waiting] == ["queued", "waiting", "queued", "queued", "queued"]


def test_weights_that_were_never_written_are_the_specs_fault(service: Service) -> None:
    first = service.post()["id"]
    second = service.needing(first, "init", "last")
    service.run(first, "succeeded", "best.safetensors")
    assert service.settle() == 1
    failure = service.job(second)["failure"]
    assert failure["failure_class"] == "user"
    assert failure["message"] == f"job {first} has succeeded, and has no last.safetensors"
    assert failure["where"] == "/spec/student/init/job"


def test_what_the_awaited_spec_tells_is_checked_at_submission(service: Service, root: Path) -> None:
    first = service.post()["id"]
    narrow = {**TINY, "backbone": {**TINY["backbone"], "width": 16}}

    def refused(order: dict[str, Any]) -> dict[str, str]:
        return errors(service.client.post("/jobs", json=order))

    found = refused(service.order("train", student={**narrow, "init": {"job": first}}))
    assert "whose width is 8" in found["/spec/student/backbone/width"]
    data = {**service.spec["data"], "classes": [CLASSES[0]]}
    second = service.post(data=data)["id"]
    found = refused(service.order("distill", teacher={"weights": {"job": second}}))
    assert f"does not know {CLASSES[1]}" in found["/spec/teacher/weights/job"]
    weights = {"file": str(write_weights(root / "w.safetensors"))}
    measured = service.post("evaluate", weights=weights, data={"val": service.spec["data"]["val"]})["id"]
    found = refused(service.order("distill", teacher={"weights": {"job": measured}}))
    assert (
        found["/spec/teacher/weights/job"] == f"job {measured} is of kind evaluate: it will have no weights of its own"
    )
    dry = service.client.post("/jobs?dry_run=true", json=service.order("distill", teacher={"weights": {"job": first}}))
    assert f"it waits for the weights of job {first} (queued)" in dry.json()["notes"][0]


def test_what_a_client_may_do_to_a_waiting_job(service: Service) -> None:
    first = service.post()["id"]
    second, third = service.needing(first), service.needing(first)
    for action, status in (("stop", 409), ("resume", 409), ("retry", 409)):
        assert service.act(second, action, status)["remedy"] == "Possible now: cancel, pause."
    assert service.client.delete(f"/jobs/{second}").status_code == 409
    service.act(third, "cancel")
    service.act(second, "pause")
    assert service.client.delete(f"/jobs/{first}").status_code == 409
    assert service.settle() == 0
    service.act(second, "resume")
    service.act(second, "pause")
    service.run(first, "succeeded", "best.safetensors")
    refused = service.client.delete(f"/jobs/{first}")
    assert (refused.status_code, refused.json()["detail"]) == (409, f"the job {second} still needs a file of this one")
    assert service.settle() == 0  # a paused one is left alone
    service.act(second, "resume")
    assert service.path(second) == ["waiting", "paused", "waiting", "paused", "queued"]
    assert service.path(third) == ["waiting", "cancelled"]
    assert service.messages(second) == 1


def test_a_paused_job_hears_of_the_failure_when_it_is_resumed(service: Service) -> None:
    first = service.post()["id"]
    second = service.needing(first)
    service.act(second, "pause")
    service.act(first, "cancel")
    assert service.settle() == 0
    service.act(second, "resume")
    assert service.settle() == 1
    assert service.path(second) == ["waiting", "paused", "waiting", "failed"]


def test_a_retry_waits_for_the_retry_of_what_has_failed(service: Service) -> None:
    first = service.post()["id"]
    second = service.needing(first)
    service.run(first, "failed", failure=DIVERGED)
    service.settle()
    refused = service.act(second, "retry", 409)
    assert refused["detail"] == f"the job {first}, whose weights this one needs, failed"
    assert f"POST /jobs/{first}/retry" in refused["remedy"]
    again = service.act(service.act(first, "retry", 201)["id"], "cancel")["id"]
    last = service.act(again, "retry", 201)["id"]
    assert service.client.delete(f"/jobs/{first}").status_code == 204

    waits = service.act(second, "retry", 201)
    assert (waits["status"], waits["spec"]["teacher"]["weights"]["job"]) == ("waiting", last)
    assert [(one["job"], one["status"]) for one in waits["depends_on"]] == [(last, "queued")]
    assert service.act(second, "retry", 201)["id"] == waits["id"]
    service.run(last, "succeeded", "best.safetensors")
    service.settle()
    assert service.path(waits["id"]) == ["waiting", "queued"]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_what_has_come_to_nothing_is_refused_as_before(service: Service, end: str) -> None:
    first = service.post()["id"]
    if end == "failed":
        service.run(first, "failed", failure=DIVERGED)
    else:
        service.act(first, "cancel")
    answer = service.client.post("/jobs", json=service.order("distill", teacher={"weights": {"job": first}}))
    assert errors(answer)["/spec/teacher/weights/job"] == f"job {first} is {end}, not succeeded"


def test_one_that_cannot_be_moved_keeps_no_other_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    first = service.post()["id"]
    stuck, free = service.needing(first), service.needing(first)
    service.run(first, "succeeded", "best.safetensors")
    move = dependents.move

    def fragile(session: Any, job_id: str, *rest: Any, **values: Any) -> bool:
        if job_id == stuck:
            raise RuntimeError("no")
        return move(session, job_id, *rest, **values)

    with monkeypatch.context() as patch:
        patch.setattr(dependents, "move", fragile)
        assert service.settle() == 1
    assert (service.path(stuck), service.path(free)) == (["waiting"], ["waiting", "queued"])
    assert service.settle() == 1  # nothing is lost: the next round finds it


def test_several_relays_move_each_job_once(service: Service) -> None:
    first = service.post()["id"]
    waiting = [service.needing(first) for _ in range(6)]
    service.run(first, "succeeded", "best.safetensors")
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: service.settle(), range(4))) == len(waiting)
    assert {tuple(service.path(job)) for job in waiting} == {("waiting", "queued")}
    assert {service.messages(job) for job in waiting} == {1}


def test_the_end_of_a_job_is_told_to_the_relay_only_if_something_waits(service: Service) -> None:
    alone, first = service.post()["id"], service.post()["id"]
    service.needing(first)
    heard: list[str] = []
    with service.database.notifier.listening("dependents", lambda: heard.append("end")):
        service.act(alone, "cancel")
        assert heard == []
        service.act(first, "cancel")
        assert heard == ["end"]


def test_a_waiting_job_without_needs_is_not_forgotten(service: Service) -> None:
    """Such as after the table was lost: the specification is what counts for the rest of its life."""
    first = service.post()["id"]
    second = service.needing(first)
    service.run(first, "succeeded", "best.safetensors")
    with service.database.transaction() as session:
        session.execute(delete(JobDependency))
    assert service.settle() == 1
    assert service.path(second) == ["waiting", "queued"]


def test_waiting_jobs_count_as_queued_ones_do(make_settings: Callable[..., Settings], service: Service) -> None:
    first = service.post()["id"]
    service.needing(first)
    service.client.app.state.settings = make_settings(max_waiting_per_owner=2)  # type: ignore[attr-defined]
    answer = service.client.post("/jobs", json=service.order())
    assert (answer.status_code, "2 jobs of local are waiting" in answer.json()["detail"]) == (429, True)
