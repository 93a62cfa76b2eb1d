"""`data.dataset`: what a name becomes in the stored specification, and every way to get it wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crosskd.datasets.importing import ImportedDataset
from tests.support.databases import ONE_DATABASE
from tests.support.specs import errors
from tests.support.versions import make_version, run_import, write_source
from tests.support.worker_calls import Worker

STUDENT = {"backbone": {"name": "resnet_tiny"}}


@pytest.fixture
def source(root: Path) -> Path:
    return write_source(root / "cells")


@pytest.fixture
def version(worker: Worker, source: Path) -> ImportedDataset:
    return make_version(worker, "cells", source)


def post(client: TestClient, data: Any, *, dry: bool = True) -> Any:
    body = {"kind": "train", "name": "n", "spec": {"data": data, "student": STUDENT, "device": "cpu"}}
    return client.post("/jobs", params={"dry_run": dry}, json=body)


def test_a_name_becomes_a_version(client: TestClient, worker: Worker, version: ImportedDataset) -> None:
    for text in ("cells", f"cells@{version.digest[:6]}", f"cells@{version.digest}"):
        answer = post(client, {"dataset": text})
        assert answer.status_code == 200, answer.text
        data = answer.json()["spec"]["data"]
        assert data["dataset"] == f"cells@{version.digest}"
        assert data["val"] == {"annotations": f"cells@{version.digest}/val.json", "images": version.images}
        assert data["classes"] == ["one", "two"]
        assert post(client, data).json()["spec"]["data"] == data  # it can be posted as it is
    job = post(client, {"dataset": "cells"}, dry=False).json()["id"]
    claim = worker.claim(job).json()
    assert claim["spec"]["data"] == data
    for split in ("train", "val"):
        file = claim["annotations"][split]
        content = client.get(file["url"], headers=worker.headers).content
        assert (content, file["name"]) == (
            client.get(f"/jobs/{client.get('/datasets/cells').json()['newest']['job']}/artifacts/{split}.json").content,
            f"{split}.json",
        )


@ONE_DATABASE
def test_sweeps_and_evaluations_name_one_too(client: TestClient, worker: Worker, version: ImportedDataset) -> None:
    base = {"data": {"dataset": "cells"}, "student": STUDENT}
    order = {"name": "s", "base": base, "arms": {"alone": {}, "b": {"batch_size": 2}}, "seeds": [1, 2]}
    answer = client.post("/sweeps", json=order)
    assert answer.status_code == 201, answer.text
    jobs = client.get("/jobs", params={"kind": "train"}).json()["items"]
    told = {client.get(f"/jobs/{job['id']}").json()["spec"]["data"]["dataset"] for job in jobs}
    assert (len(jobs), told) == (4, {f"cells@{version.digest}"})
    order["base"] = {**base, "data": {"dataset": "cell"}}
    assert list(errors(client.post("/sweeps", json=order))) == ["/base/data/dataset"]
    measure = {"weights": {"job": jobs[0]["id"]}, "data": {"dataset": "cells"}}
    answer = client.post("/jobs", json={"kind": "evaluate", "name": "e", "spec": measure})
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["data"]["dataset"] == f"cells@{version.digest}"


def test_what_an_unfinished_job_reads_is_not_deleted(
    client: TestClient, worker: Worker, version: ImportedDataset
) -> None:
    job = post(client, {"dataset": "cells"}, dry=False).json()["id"]
    refused = client.delete("/datasets/cells")
    assert refused.status_code == 409
    assert f"POST /jobs/{job}/cancel" in refused.json()["remedy"]
    client.post(f"/jobs/{job}/cancel")
    assert client.delete("/datasets/cells").status_code == 204
    again = client.post(f"/jobs/{job}/retry")
    assert again.status_code == 409, again.text
    assert f"cells@{version.digest}" in again.json()["detail"]
    assert "POST /datasets" in again.json()["remedy"]


@pytest.mark.parametrize(
    ("data", "pointer", "why"),
    [
        ({"dataset": "cell"}, "/spec/data/dataset", "there is no data set cell"),
        ({"dataset": "cells@000000"}, "/spec/data/dataset", "cells has no version 000000"),
        ({"dataset": "empty"}, "/spec/data/dataset", "no import of empty has succeeded yet: the job"),
        ({"dataset": "cells@12"}, "/spec/data/dataset", "should match"),
        ({"dataset": "../cells"}, "/spec/data/dataset", "should match"),
        (
            {"dataset": "cells", "val": {"annotations": "val.json", "images": "images"}},
            "/spec/data/val/annotations",
            "is not of the data set",
        ),
        ({"dataset": "cells", "classes": ["one", "three"]}, "/spec/data/classes", "no category 'three'"),
    ],
    ids=str,
)
@ONE_DATABASE
def test_what_is_wrong_is_told(
    client: TestClient, source: Path, version: ImportedDataset, data: dict[str, Any], pointer: str, why: str
) -> None:
    client.post("/datasets", json={"name": "empty", "source": str(source)})
    found = errors(post(client, data))
    assert pointer in found, found
    assert why in found[pointer], found


@ONE_DATABASE
def test_the_beginning_of_two_digests_names_neither(client: TestClient, worker: Worker, source: Path) -> None:
    digests = ["abcdef" + "0" * 58, "abcdef" + "1" * 58]
    for digest in digests:
        job = client.post("/datasets", json={"name": "cells", "source": str(source)}).json()["id"]
        run_import(worker, job, source, digest=digest)
    (fault,) = post(client, {"dataset": "cells@abcdef"}).json()["errors"]
    assert fault["pointer"] == "/spec/data/dataset"
    assert fault["detail"].startswith("several versions of cells begin with abcdef: abcdef")
    assert fault["remedy"] == "Give more of the digest."
    found = client.get("/datasets/cells/versions/abcdef")
    assert found.status_code == 409, found.text
    assert all(digest in found.json()["detail"] for digest in digests)
    data = post(client, {"dataset": "cells@abcdef1"}).json()["spec"]["data"]
    assert data["dataset"] == f"cells@{digests[1]}"


@ONE_DATABASE
def test_images_that_are_gone(client: TestClient, worker: Worker, source: Path, version: ImportedDataset) -> None:
    shutil.move(source / "images", source / "pictures")
    found = errors(post(client, {"dataset": "cells"}))
    assert "the images of cells are not where they were imported from" in found["/spec/data/dataset"]
    shutil.move(source / "pictures", source / "images")
    (source / "images" / "0.png").unlink()
    assert "0.png" in errors(post(client, {"dataset": "cells"}))["/spec/data/dataset"]
