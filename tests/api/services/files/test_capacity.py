"""Room for artifacts: what stays free on the disk, how many bytes may be stored, and what is refused with 507."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.database import Database
from api.models import Job
from api.services.files import capacity
from api.settings import Settings
from api.stores.local import LocalStorage
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import Worker
from wire.reports import CocoMetrics

PostJob = Callable[..., str]
LIMIT = 1000


@pytest.fixture
def settings(make_settings: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    """By its parameter, with bounds."""
    return make_settings(**getattr(request, "param", {}))


@pytest.fixture
def stored(settings: Settings) -> Callable[[], list[int]]:
    """The size of every file in the storage folder, staged or published."""
    return lambda: sorted(path.stat().st_size for path in settings.storage.rglob("*") if path.is_file())


def digest(content: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"}


def put(worker: Worker, name: str, size: int) -> Any:
    content = name[:1].encode() * size
    return worker.put(name, content, **digest(content))


def busy(client: TestClient, post_job: PostJob) -> tuple[str, Worker]:
    """A job that is worked on, and its worker."""
    worker, job = Worker(client), post_job()
    assert worker.claim(job).status_code == 200
    return job, worker


def refused(answer: Any) -> dict[str, str]:
    assert answer.status_code == 507, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    found: dict[str, str] = answer.json()
    assert found["remedy"]
    return found


def storage_faults(client: TestClient) -> list[str]:
    """What `/ready` says of the storage; no broker and no revision are there either."""
    answer = client.get("/ready")
    assert answer.status_code == 503
    return [fault["detail"] for fault in answer.json()["errors"] if fault["pointer"] == "storage"]


@ONE_DATABASE
def test_some_of_the_disk_stays_free(
    client: TestClient, post_job: PostJob, settings: Settings, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, worker = busy(client, post_job)
    with monkeypatch.context() as patch:
        patch.setattr(capacity, "_free", lambda _: settings.min_free_bytes + 5)
        assert put(worker, "manifest.json", 5).status_code == 201
        problem = refused(put(worker, "log.txt", 6))
        assert "CROSSKD_MIN_FREE_BYTES" in problem["remedy"]
        assert storage_faults(client) == []
        patch.setattr(capacity, "_free", lambda _: settings.min_free_bytes - 1)
        assert len(storage_faults(client)) == 2  # of the home and of the artifacts
        assert worker.post("heartbeat").status_code == 200  # the database still writes
        post_job()
    assert stored() == [5]
    assert storage_faults(client) == []
    assert put(worker, "log.txt", 6).status_code == 201


@ONE_DATABASE
@pytest.mark.parametrize("settings", [{"min_free_bytes": 10**18}], indirect=True)
def test_the_real_disk_is_asked(client: TestClient, post_job: PostJob, stored: Any) -> None:
    _, worker = busy(client, post_job)
    assert "bytes free" in refused(put(worker, "log.txt", 1))["detail"]
    assert stored() == []
    assert "bytes are free" in storage_faults(client)[0]


@ONE_DATABASE
def test_a_disk_that_others_fill_during_the_upload(
    client: TestClient, post_job: PostJob, settings: Settings, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, worker = busy(client, post_job)
    free = iter([10**12, 0])  # before the body, and before its bytes are written
    with monkeypatch.context() as patch:
        patch.setattr(capacity, "_free", lambda _: next(free))
        refused(put(worker, "log.txt", 5_000_000))
    assert stored() == []  # what had come is gone too: it is room
    assert put(worker, "log.txt", 5_000_000).status_code == 201


@pytest.mark.parametrize("settings", [{"storage_limit": LIMIT}], indirect=True)
def test_the_bytes_of_all_artifacts_are_bounded(client: TestClient, post_job: PostJob, stored: Any) -> None:
    done, first = busy(client, post_job)
    assert put(first, "best.safetensors", 700).status_code == 201
    _, second = busy(client, post_job)
    assert put(second, "log.txt", 300).status_code == 201
    assert put(second, "log.txt", 300).status_code == 200  # the same again is no growth
    assert storage_faults(client) == ["artifacts have 1,000 bytes, and 1,000 may be"]
    problem = refused(put(second, "manifest.json", 1))
    assert problem["detail"] == "artifacts would have 1,001 bytes, and 1,000 may be"
    assert problem["remedy"] == "Wait for a job to end; or raise CROSSKD_STORAGE_LIMIT."

    assert first.finish("succeeded").status_code == 200
    assert f"DELETE what is at its end and no longer needed, such as /jobs/{done} (700 bytes)" in refused(
        put(second, "manifest.json", 1)
    )["remedy"]  # fmt: skip
    assert stored() == [300, 700]
    assert client.delete(f"/jobs/{done}").is_success
    assert storage_faults(client) == []
    assert put(second, "manifest.json", 1).status_code == 201
    assert stored() == [1, 300]


@pytest.mark.parametrize("settings", [{"storage_limit": LIMIT}], indirect=True)
def test_what_a_publication_removes_makes_room(
    client: TestClient, post_job: PostJob, spec: dict[str, Any], stored: Any
) -> None:
    spec["checkpoint"] = {"keep_last": 1}
    _, worker = busy(client, post_job)
    assert put(worker, "last.safetensors", 300).status_code == 201
    for step in (1, 2, 3):
        assert put(worker, f"checkpoint-{step:08d}.pt", 600).status_code == 201
    assert stored() == [300, 600]
    assert put(worker, "last.safetensors", 400).status_code == 201
    refused(put(worker, "last.safetensors", 401))
    refused(put(worker, "checkpoint-00000004.pt", 601))
    assert stored() == [400, 600]
    names = {item["name"] for item in client.get(worker_artifacts(client)).json()["items"]}
    assert names == {"last.safetensors", "checkpoint-00000003.pt"}


@pytest.mark.parametrize("settings", [{"storage_limit": LIMIT}], indirect=True)
def test_a_checkpoint_beside_which_others_stay_is_refused_before_it_comes(
    client: TestClient, post_job: PostJob, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all of it would come, be refused, and come again without end."""
    spec["checkpoint"] = {"keep_last": 3}
    _, worker = busy(client, post_job)
    for step in (1, 2, 3):
        assert put(worker, f"checkpoint-{step:08d}.pt", 300).status_code == 201
    assert put(worker, "checkpoint-00000004.pt", 400).status_code == 201  # the first goes for it
    assert put(worker, "checkpoint-00000004.pt", 300).status_code == 201
    metrics = dict.fromkeys(CocoMetrics.model_fields, 0.5)
    report = {"model": "student", "step": 2, "metrics": metrics, "best": True}
    assert worker.post("evaluations", report).status_code == 204

    def no_more(*_: Any) -> Any:
        raise AssertionError("its body was read")

    monkeypatch.setattr(LocalStorage, "stage", no_more)
    refused(put(worker, "checkpoint-00000005.pt", 300))  # the second is the best, and stays


def worker_artifacts(client: TestClient) -> str:
    return f"/jobs/{client.get('/jobs').json()['items'][0]['id']}/artifacts"


@pytest.mark.parametrize("settings", [{"storage_limit_per_owner": LIMIT}], indirect=True)
def test_the_bytes_of_an_owner_are_bounded(client: TestClient, post_job: PostJob, database: Database) -> None:
    hers, first = busy(client, post_job)
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == hers).values(owner="ann"))
    assert put(first, "log.txt", LIMIT).status_code == 201
    problem = refused(put(first, "manifest.json", 1))
    assert problem["detail"] == "artifacts of ann would have 1,001 bytes, and 1,000 may be"
    assert "CROSSKD_STORAGE_LIMIT_PER_OWNER" in problem["remedy"]
    _, second = busy(client, post_job)
    assert put(second, "log.txt", LIMIT).status_code == 201  # another's
    assert storage_faults(client) == []  # one owner's bound is no fault of the service


@pytest.mark.parametrize("settings", [{"storage_limit": LIMIT}], indirect=True)
def test_uploads_at_once_do_not_pass_the_bound_together(client: TestClient, post_job: PostJob, stored: Any) -> None:
    workers = [busy(client, post_job)[1] for _ in range(6)]
    with ThreadPoolExecutor(len(workers)) as threads:
        statuses = list(threads.map(lambda worker: put(worker, "log.txt", 400).status_code, workers))
    assert sorted(statuses) == [201, 201, 507, 507, 507, 507]
    assert stored() == [400, 400]
