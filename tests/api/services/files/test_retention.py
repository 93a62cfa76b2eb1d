"""Which checkpoints stay, and that nothing which is still needed goes with the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from api.database import Database
from api.models import Artifact, Job
from api.services.files import artifacts, retention
from api.storage import Storage
from tests.support.artifacts import agree, steps
from tests.support.evaluations import report_best
from tests.support.worker_calls import Worker, checkpoint

Train = Callable[..., str]


@pytest.fixture
def storage(app: FastAPI) -> Storage:
    found: Storage = app.state.storage
    return found


@pytest.fixture
def train(post_job: Callable[..., str], spec: dict[str, Any], worker: Worker) -> Train:
    """A running job with a checkpoint at each step; evaluated, and better than ever, where `best` says."""

    def begin(steps: int = 6, best: tuple[int, ...] = (), keep_last: int = 100) -> str:
        job = post_job(spec={**spec, "checkpoint": {"keep_last": keep_last}})
        assert worker.claim(job).status_code == 200
        for step in range(1, steps + 1):
            checkpoint(worker, step, b"state %d" % step)
            if step in best:
                report_best(worker, step, step / 100)
        return job

    return begin


def test_the_best_checkpoint_stays_beside_the_last(database: Database, storage: Storage, train: Train) -> None:
    job = train(steps=6, best=(1, 3), keep_last=2)
    assert steps(database, job) == [3, 5, 6]
    assert agree(database, storage)


def test_the_best_of_a_stretch_that_was_replaced_does_not_count(
    database: Database, train: Train, worker: Worker
) -> None:
    job = train(steps=4, best=(2, 4), keep_last=2)
    with database.transaction() as session:  # the machine died before the last checkpoint came
        for lost in session.scalars(select(Artifact).where(Artifact.job_id == job, Artifact.step > 2)):
            session.delete(lost)
    worker.finish("released")
    assert worker.claim(job).json()["resume"]["step"] == 2
    for step in (3, 4, 5, 6):
        checkpoint(worker, step)
    assert steps(database, job) == [2, 5, 6]


def test_a_job_at_its_end_keeps_less(
    client: TestClient, database: Database, storage: Storage, train: Train, worker: Worker
) -> None:
    job = train(steps=8, best=(2,))
    for name in ("best.safetensors", "last.safetensors", "log.txt", "manifest.json"):
        worker.put(name, b"x", **{"Content-Digest": "sha-256=:LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=:"})
    assert retention.trim_ended_jobs(database, storage, 3) == 0, "it runs: what it keeps is its own matter"
    worker.finish("succeeded")
    assert retention.trim_ended_jobs(database, storage, 3) == 4
    assert steps(database, job) == [2, 6, 7, 8]
    assert retention.trim_ended_jobs(database, storage, 3) == 0
    listed = {item["name"] for item in client.get(f"/jobs/{job}/artifacts").json()["items"]}
    assert {"best.safetensors", "last.safetensors", "log.txt", "manifest.json"} < listed
    assert agree(database, storage)


@pytest.mark.parametrize("end", ["pause", "released"])
def test_what_goes_on_later_keeps_all_that_it_asked_for(
    client: TestClient, database: Database, storage: Storage, train: Train, worker: Worker, end: str
) -> None:
    job = train(steps=5)
    if end == "pause":
        client.post(f"/jobs/{job}/pause")
    worker.finish("released")
    assert client.get(f"/jobs/{job}").json()["status"] == ("paused" if end == "pause" else "queued")
    assert retention.trim_ended_jobs(database, storage, 1) == 0
    assert steps(database, job) == [1, 2, 3, 4, 5]


def test_a_retry_starts_from_what_is_left(
    client: TestClient, database: Database, storage: Storage, train: Train, worker: Worker
) -> None:
    job = train(steps=5, best=(1,))
    worker.finish("failed", failure={"failure_class": "user", "message": "no"})
    before = client.post(f"/jobs/{job}/retry").json()["id"]
    assert retention.trim_ended_jobs(database, storage, 1) == 3
    claim = worker.claim(before).json()
    assert claim["resume"]["step"] == 5
    assert client.get(claim["resume"]["url"]).content == b"state 5"


def test_a_download_that_has_begun_goes_on(database: Database, storage: Storage, train: Train, worker: Worker) -> None:
    job = train(steps=3)
    worker.finish("succeeded")
    opened = artifacts.open_artifact(database, storage, job, "checkpoint-00000001.pt")
    assert isinstance(opened, artifacts.OpenArtifact)
    with opened.file as file:
        assert retention.trim_ended_jobs(database, storage, 1) == 2
        file.seek(0)
        assert file.read() == b"state 1"


def test_replicas_share_the_work(database: Database, storage: Storage, train: Train, worker: Worker) -> None:
    for _ in range(4):
        train(steps=4)
        worker.finish("succeeded")
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: retention.trim_ended_jobs(database, storage, 1), range(4)))
    assert sum(counts) + retention.trim_ended_jobs(database, storage, 1) == 4 * 3  # none twice, whoever was first
    assert agree(database, storage)


def test_a_name_that_was_published_anew_is_another_checkpoint(
    database: Database, storage: Storage, train: Train, worker: Worker
) -> None:
    job = train(steps=3)
    with database.reading() as session:
        seen = retention.surplus_checkpoints(session, job, 1)
        session.expunge_all()
    assert [found.step for found in seen] == [2, 1]
    checkpoint(worker, 1, b"from a later attempt")
    with patch.object(retention, "surplus_checkpoints", lambda *_: seen), database.transaction() as session:
        assert retention.trim(session, storage, job) == 1
    assert steps(database, job) == [1, 3]
    assert agree(database, storage)


def test_a_crash_before_the_file_goes_leaves_no_row_without_a_file(
    database: Database, storage: Storage, train: Train, worker: Worker
) -> None:
    job = train(steps=3)
    worker.finish("succeeded")

    def crash(_: Any, key: str) -> None:
        raise OSError(f"killed before {key} was deleted")

    with patch.object(type(storage), "delete", crash):
        assert retention.trim_ended_jobs(database, storage, 1) == 2
    assert steps(database, job) == [3]
    assert len(list(storage.files())) == 3
    assert artifacts.sweep(database, storage, older_than=-1) == 2
    assert agree(database, storage)


def test_bytes_that_waited_for_long_are_no_orphan(
    database: Database, storage: Storage, train: Train, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that came whole yesterday is published today; the sweep comes just before the commit."""
    job = train(steps=1)
    publish = type(storage).publish

    def publish_old(self: Any, staged: Any, key: str) -> None:
        publish(self, staged, key)
        yesterday = [stored._replace(age=86_400.0) for stored in self.files()]
        with patch.object(type(self), "files", lambda _: iter(yesterday)):
            assert artifacts.sweep(database, self) == 0

    monkeypatch.setattr(type(storage), "publish", publish_old)
    checkpoint(worker, 2)
    assert steps(database, job) == [1, 2]
    assert agree(database, storage)


RUN = st.lists(st.sampled_from(["checkpoint", "best", "crash"]), min_size=1, max_size=8)


@given(run=RUN, keep_last=st.integers(1, 4), most=st.integers(1, 4), end=st.sampled_from(["succeeded", "failed"]))
@hypothesis_settings(
    max_examples=8, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_happens_the_newest_and_the_best_stay(
    database: Database,
    storage: Storage,
    train: Train,
    worker: Worker,
    run: list[str],
    keep_last: int,
    most: int,
    end: str,
) -> None:
    job, step, best = train(steps=1, keep_last=keep_last), 1, None
    for event in run:
        if event == "best":
            report_best(worker, step, step / 1000)
            best = step
        elif event == "crash":
            worker.finish("released")
            step = worker.claim(job).json()["resume"]["step"]
            if best == step:
                report_best(worker, step, step / 1000)  # whoever resumes at an epoch's end measures it again
        else:
            step += 1
            checkpoint(worker, step)
        kept = steps(database, job)
        retention.trim_ended_jobs(database, storage, most)
        assert steps(database, job) == kept
        assert step in kept
        assert best is None or best in kept
        assert len(kept) <= keep_last + 1
    worker.finish(end, failure={"failure_class": "user", "message": "no"} if end == "failed" else None)
    retention.trim_ended_jobs(database, storage, most)
    kept = steps(database, job)
    assert step in kept
    assert best is None or best in kept
    assert len(kept) <= min(keep_last, most) + 1
    assert agree(database, storage)
    with database.reading() as session:
        point = artifacts.resume_point(session, session.get_one(Job, job))
    assert point is not None
    assert point.step == step
