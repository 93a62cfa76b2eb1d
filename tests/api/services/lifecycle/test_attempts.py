"""Claims, leases, fencing, and what becomes of a job when an attempt ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.database import Database
from api.models import ApiUptime, Attempt, Job, Outbox, Transition
from api.services.jobs.transitions import move
from api.services.lifecycle import attempts, uptime
from api.settings import Settings
from tests.support.evaluations import METRICS
from tests.support.leases import reap_after
from tests.support.worker_calls import WORKER, Worker, checkpoint, upload

PostJob = Callable[..., str]


def test_one_of_many_claims_wins(client: TestClient, post_job: PostJob, database: Database) -> None:
    job = post_job()
    barrier = threading.Barrier(8)

    def claim(number: int) -> int:
        barrier.wait()
        return Worker(client).claim(job, f"worker {number}").status_code  # type: ignore[no-any-return]

    with ThreadPoolExecutor(8) as pool:
        codes = sorted(pool.map(claim, range(8)))

    assert codes == [200] + [409] * 7
    with database.reading() as session:
        assert len(session.scalars(select(Attempt)).all()) == 1
        assert len(session.scalars(select(Transition)).all()) == 2
        assert session.scalars(select(Outbox)).all() == []


def test_claim_needs_the_worker_token(client: TestClient, post_job: PostJob) -> None:
    path = f"/worker/jobs/{post_job()}/claim"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}):
        answer = client.post(path, json={"worker": "w"}, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("what", ["heartbeat", "metrics", "evaluations", "finish"])
def test_stale_token_bounces(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings, what: str
) -> None:
    """The zombie of a lost attempt, before and after its successor has the job."""
    job = post_job()
    worker.claim(job)
    bodies: dict[str, Any] = {
        "heartbeat": None,
        "metrics": {"sequence": 0, "points": []},
        "evaluations": {"model": "student", "step": 1, "metrics": METRICS},
        "finish": {"outcome": "succeeded"},
    }
    assert reap_after(database, settings, 60) == 1

    for _ in range(2):
        answer = worker.post(what, bodies[what])
        assert answer.status_code == 409, answer.text
        assert answer.json()["type"] == "/problems/stale-attempt"
        Worker(client).claim(job)
    assert client.get(f"/jobs/{job}").json()["status"] == "running"


def test_token_of_another_attempt_bounces(post_job: PostJob, worker: Worker) -> None:
    worker.claim(post_job())
    worker.token = 2
    assert worker.post("heartbeat").status_code == 409
    worker.attempt = "0" * 32
    assert worker.post("heartbeat").status_code == 404


def test_heartbeat_renews_the_lease(post_job: PostJob, worker: Worker, database: Database, settings: Settings) -> None:
    worker.claim(post_job())
    assert reap_after(database, settings, 20) == 0
    worker.post("heartbeat")
    assert reap_after(database, settings, 20) == 0
    assert reap_after(database, settings, 20) == 1


def test_an_attempt_begins_after_the_one_before_has_ended(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post_job()
    worker.claim(job)

    def give_back(*_: Any) -> None:
        """What a claim may have to wait for, after it has looked at the clock."""
        assert worker.finish("released").status_code == 200

    monkeypatch.setattr(attempts.quotas, "allow_run", give_back)
    assert Worker(client).claim(job).status_code == 200

    with database.reading() as session:
        first, second = session.scalars(select(Attempt).order_by(Attempt.number))
        queued = session.scalars(
            select(Transition.at).where(Transition.to_status == "queued", Transition.seq > 1)
        ).one()
    assert first.ended_at is not None
    assert first.ended_at <= queued <= second.started_at


def test_lost_job_is_resumed_so_often_and_no_more(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    job = post_job()
    for _ in range(settings.max_resumes + 1):
        assert client.get(f"/jobs/{job}").json()["status"] == "queued"
        worker.claim(job)
        assert reap_after(database, settings, 31) == 1

    final = client.get(f"/jobs/{job}").json()
    assert final["status"] == "failed"
    assert final["failure"]["failure_class"] == "lost"
    assert final["failure"]["remedy"]
    assert "resumed 3 times" in final["transitions"][-1]["reason"]
    assert [a["status"] for a in final["attempts"]] == ["lost"] * 4
    assert [a["number"] for a in final["attempts"]] == [1, 2, 3, 4]


def test_nothing_is_reaped_right_after_an_outage(
    post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    worker.claim(post_job())
    assert reap_after(database, settings, 60, up_for=settings.lease_seconds - 1) == 0
    assert reap_after(database, settings, 0, up_for=settings.lease_seconds + 1) == 1


def test_a_gap_in_the_pulse_begins_a_new_stretch(database: Database, settings: Settings) -> None:
    lease = timedelta(seconds=settings.lease_seconds)
    for gap, is_new in ((lease / 4, False), (lease, True)):
        with database.transaction() as session:
            uptime.record(session, settings)
            row = session.get_one(ApiUptime, 1)
            row.at, row.since = session.now() - gap, session.now() - 10 * lease
        with database.transaction() as session:
            uptime.record(session, settings)
            row = session.get_one(ApiUptime, 1)
            assert (row.since == row.at) is is_new


def test_without_a_recent_pulse_nothing_is_reaped(
    post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    """The relay lives and the API does not: no worker can renew its lease."""
    worker.claim(post_job())
    reap_after(database, settings, 0)
    with database.transaction() as session:
        now = session.now()
        session.execute(update(ApiUptime).values(at=now - timedelta(seconds=20), since=now - timedelta(hours=1)))
        session.execute(update(Attempt).values(lease_expires_at=now - timedelta(seconds=1)))
    with database.transaction() as session:
        assert attempts.reap(session, settings) == 0


def test_an_attempt_that_cannot_be_ended_holds_up_no_other(
    client: TestClient, post_job: PostJob, database: Database, settings: Settings
) -> None:
    jobs = [post_job(str(n)) for n in range(3)]
    for job in jobs:
        Worker(client).claim(job)
    with database.transaction() as session:  # as nothing in the service leaves it
        session.execute(update(Job).where(Job.id == jobs[1]).values(status="queued"))
    for lost in (2, 0):
        assert reap_after(database, settings, 60) == lost
        found = [client.get(f"/jobs/{job}").json() for job in jobs]
        assert [job["status"] for job in found] == ["queued"] * 3
        assert [job["attempts"][0]["status"] for job in found] == ["lost", "running", "lost"]


def test_an_attempt_whose_job_is_locked_holds_up_no_other(
    backend: str, client: TestClient, post_job: PostJob, database: Database, settings: Settings
) -> None:
    """Say by a replica that hangs in the middle of a request."""
    if backend == "sqlite":
        pytest.skip("it has one writer at a time, who locks everything")
    jobs = [post_job(str(n)) for n in range(3)]
    for job in jobs:
        Worker(client).claim(job)
    with database.transaction() as session:
        session.get(Job, jobs[1], with_for_update=True)
        assert reap_after(database, settings, 60) == 2
    assert reap_after(database, settings, 60) == 1


@pytest.mark.parametrize(("step", "best_ap"), [(40, 0.3), (20, 0.2), (15, 0.1), (None, None)])
def test_a_claim_takes_the_figures_back_to_the_checkpoint(
    client: TestClient, post_job: PostJob, worker: Worker, step: int | None, best_ap: float | None
) -> None:
    """What lies behind it is made anew, and its evaluations count no more."""
    job = post_job()
    worker.claim(job)
    if step is not None:
        upload(worker, f"checkpoint-{step:08d}.pt", b"state")
    for at, ap in ((10, 0.1), (20, 0.2), (30, 0.3), (40, -1.0), (50, 0.5)):
        metrics = METRICS | {"AP": ap}
        worker.post("evaluations", {"model": "student", "step": at, "metrics": metrics, "best": True})
    worker.post("evaluations", {"model": "teacher", "step": 0, "metrics": METRICS | {"AP": 0.9}})
    progress = {"phase": "evaluating", "step": 50, "total_steps": 100, "epoch": 5.0, "loss": 1.5, "eta_seconds": 9.0}
    worker.post("metrics", {"sequence": 0, "progress": progress})
    assert client.get(f"/jobs/{job}").json()["best_ap"] == 0.5
    worker.finish("released")
    worker.claim(job)

    found = client.get(f"/jobs/{job}").json()
    assert (found["best_ap"], found["teacher_ap"]) == (best_ap, 0.9)
    start = step or 0
    assert found["progress"] == {
        "phase": "preparing", "step": start, "total_steps": 100, "epoch": start / 10, "loss": None,
        "steps_per_second": None, "eta_seconds": None, "waiting_for": "",
    }  # fmt: skip


def test_released_job_is_queued_again_at_no_cost(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    for _ in range(6):
        worker.claim(job)
        assert worker.finish("released").json() == {"job": job, "status": "queued", "retried": True}

    assert client.get(f"/jobs/{job}").json()["attempts"][-1]["status"] == "released"


@pytest.mark.parametrize(
    ("failure_class", "status"),
    [
        ("user", "failed"),
        ("data", "failed"),
        ("diverged", "failed"),
        ("out_of_memory", "failed"),
        ("infrastructure", "queued"),
        ("lost", "queued"),
    ],
)
def test_the_class_decides_whether_to_try_again(
    client: TestClient, post_job: PostJob, worker: Worker, failure_class: str, status: str
) -> None:
    job = post_job()
    worker.claim(job)
    failure = {"failure_class": failure_class, "message": "it\0broke", "remedy": "Mend it."}

    answer = worker.finish("failed", failure=failure, log_tail=["last words"]).json()

    assert answer == {"job": job, "status": status, "retried": status == "queued"}
    found = client.get(f"/jobs/{job}").json()
    assert found["attempts"][0]["failure"]["log_tail"] == ["last words"]
    assert found["attempts"][0]["failure"]["message"] == "it\0broke"
    assert (found["failure"] is None) is (status == "queued")
    assert "itbroke" in found["transitions"][-1]["reason"]


def test_failure_without_a_reason_is_tried_again(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    assert worker.finish("failed").json()["status"] == "queued"
    assert client.get(f"/jobs/{job}").json()["attempts"][0]["failure"]["failure_class"] == "infrastructure"


def test_finish_repeats_its_answer(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    first = worker.finish("released")
    Worker(client).claim(job)

    again = worker.finish("released")
    assert (again.status_code, again.json()) == (200, first.json())
    assert worker.finish("succeeded").status_code == 409
    assert client.get(f"/jobs/{job}").json()["status"] == "running"


def test_an_early_stop_is_a_success_that_says_so(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    manifest = {"stopped_early": True, "steps": 90, "stop_reason": "the last 3 evaluations were not better"}
    assert worker.finish("succeeded", result=manifest).json()["status"] == "succeeded"
    found = client.get(f"/jobs/{job}").json()
    assert found["stopped_early"] is True
    reason = "attempt 1 stopped early after step 90: the last 3 evaluations were not better"
    assert found["transitions"][-1]["reason"] == reason

    other = post_job()
    worker.claim(other)
    worker.finish("succeeded", result={"stopped_early": False, "steps": 90, "stop_reason": None})
    found = client.get(f"/jobs/{other}").json()
    assert (found["stopped_early"], found["transitions"][-1]["reason"]) == (False, "attempt 1 finished")


def test_cancelled_without_being_asked_gives_the_job_back(
    client: TestClient, post_job: PostJob, worker: Worker
) -> None:
    job = post_job()
    worker.claim(job)
    assert worker.finish("cancelled").json()["status"] == "queued"


def test_lost_job_that_was_to_be_cancelled_is(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    job = post_job()
    worker.claim(job)
    client.post(f"/jobs/{job}/cancel")
    reap_after(database, settings, 60)
    assert client.get(f"/jobs/{job}").json()["status"] == "cancelled"


@pytest.mark.parametrize("final", ["succeeded", "failed", "cancelled"])
def test_final_states_never_change(post_job: PostJob, database: Database, final: str) -> None:
    job = post_job()
    with database.transaction() as session:
        session.execute(update(Job).values(status=final))
    for target in ("queued", "running", "succeeded", "failed", "cancelled"):
        with database.transaction() as session, pytest.raises(AssertionError, match="never goes"):
            move(session, job, final, target, "no")
        with database.transaction() as session:
            assert move(session, job, "running", "failed", "no") is False
    with database.reading() as session:
        assert session.get_one(Job, job).status == final
        assert len(session.scalars(select(Transition)).all()) == 1


def test_a_command_ends_the_wait_at_once(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    job = post_job()
    worker.claim(job)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(worker.get, "commands?wait=30")
        time.sleep(0.3)
        assert not held.done()
        client.post(f"/jobs/{job}/cancel")
        answer = held.result(timeout=25)  # the wait alone would end after 30 s
    assert answer.json() == {"command": "cancel"}


def test_a_wait_without_a_command_ends(post_job: PostJob, worker: Worker) -> None:
    worker.claim(post_job())
    began = time.monotonic()
    assert worker.get("commands?wait=0.5").json() == {"command": None}
    assert 0.4 < time.monotonic() - began < 20  # the longest that may be asked for is longer


def test_a_lost_attempt_ends_the_wait(
    post_job: PostJob, worker: Worker, database: Database, settings: Settings
) -> None:
    worker.claim(post_job())
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(worker.get, "commands?wait=30")
        time.sleep(0.2)
        reap_after(database, settings, 60)
        assert held.result(timeout=25).status_code == 409


def test_fencing_token_is_required(client: TestClient, post_job: PostJob, worker: Worker) -> None:
    worker.claim(post_job())
    path = f"/worker/attempts/{worker.attempt}/heartbeat"
    for token in (None, "x", "0", "9" * 30):
        headers = WORKER | ({} if token is None else {"Fencing-Token": token})
        answer = client.post(path, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "Fencing-Token"


@pytest.mark.parametrize(
    ("own", "published", "later", "goes_on"),
    [
        pytest.param((7, 1), None, [], 7, id="what the worker has itself"),
        pytest.param((7, None), None, [], 7, id="a worker from before it named the attempt"),
        pytest.param((7, 1), 9, [], 9, id="the API's is newer"),
        pytest.param((7, 1), 5, [], 7, id="the API's is older"),
        pytest.param((7, 1), None, [(None, None)], 0, id="another worker has begun anew since"),
        pytest.param((7, 1), None, [(7, 1)], 7, id="a later attempt has gone on from it"),
        pytest.param((7, 1), None, [(7, 1), (None, None)], 0, id="a later attempt has, and then another begun anew"),
        pytest.param((7, 3), None, [], 0, id="of an attempt that there never was"),
    ],
)
def test_a_workers_own_checkpoint_is_gone_on_from_where_the_series_stays_whole(
    client: TestClient,
    post_job: PostJob,
    worker: Worker,
    own: tuple[int, int | None],
    published: int | None,
    later: list[tuple[int | None, int | None]],
    goes_on: int,
) -> None:
    """What led to it was reported by the attempt that wrote it; a later attempt's reports replace these."""
    job = post_job()
    worker.claim(job)
    if published is not None:
        checkpoint(worker, published)
    worker.finish("released")
    for step, attempt in later:
        worker.claim(job, "another", checkpoint_step=step, checkpoint_attempt=attempt)
        worker.finish("released")
    step, attempt = own
    claim = worker.claim(job, checkpoint_step=step, checkpoint_attempt=attempt).json()
    assert claim["resume_step"] == goes_on
    assert (claim["resume"] or {"step": None})["step"] == published
    assert client.get(f"/jobs/{job}").json()["attempts"][-1]["resumed_from_step"] == goes_on
