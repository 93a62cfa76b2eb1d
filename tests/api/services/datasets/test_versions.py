"""Data sets as resources: names, versions, what is refused, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.database import Database
from api.services import tokens
from crosskd.spec.results.dataset_comparison import compare_reports
from tests.support.databases import ONE_DATABASE
from tests.support.specs import errors
from tests.support.versions import make_version, run_import, write_source
from tests.support.worker_calls import Worker
from wire.tokens import TokenCreate


@pytest.fixture
def source(root: Path) -> Path:
    return write_source(root / "cells")


def post(client: TestClient, source: Path, name: str = "cells", **more: Any) -> Any:
    return client.post("/datasets", json={"name": name, "source": str(source), **more})


def test_an_import_that_succeeds_is_a_version(client: TestClient, worker: Worker, source: Path) -> None:
    answer = post(client, source, labels={"of": "us"}, priority=7, split={"validation": 0.5})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["name"], job["labels"], job["priority"]) == ("import", "cells", {"of": "us"}, 7)
    assert job["spec"]["split"]["validation"] == 0.5
    known = client.get("/datasets/cells").json()
    assert (known["newest"], known["versions"], known["importing"]) == (None, [], [job["id"]])

    made = run_import(worker, job["id"], source)
    known = client.get("/datasets/cells").json()
    assert known["importing"] == []
    (version,) = known["versions"]
    assert version == known["newest"]
    assert (version["digest"], version["job"], version["images"]) == (made.digest, job["id"], made.images)
    assert [split["images"] for split in version["splits"]] == [3, 1]
    detail = client.get(f"/datasets/cells/versions/{made.digest[:6]}").json()
    assert detail["report"] == made.report.model_dump(mode="json")
    assert client.get("/datasets").json()["items"] == [
        {name: known[name] for name in ("name", "owner", "created_at", "version_count", "newest")}
    ]


def test_the_same_content_is_the_same_version(client: TestClient, worker: Worker, source: Path, root: Path) -> None:
    first = make_version(worker, "cells", source)
    other = make_version(worker, "cells", write_source(root / "others", seed=1))
    assert client.get("/datasets/cells").json()["newest"]["digest"] == other.digest != first.digest
    again = make_version(worker, "cells", write_source(root / "elsewhere"))
    known = client.get("/datasets/cells").json()
    assert again.digest == first.digest
    assert [version["digest"] for version in known["versions"]] == [first.digest, other.digest]
    assert known["newest"]["images"] == again.images != first.images  # where it lies by now
    old = client.get("/jobs", params={"kind": "import"}).json()["items"][-1]["id"]
    assert client.delete(f"/jobs/{old}").status_code == 204  # its files are no version's any more
    refused = client.delete(f"/jobs/{known['newest']['job']}")
    assert refused.status_code == 409
    assert "DELETE /datasets/cells" in refused.json()["remedy"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"source": "nowhere"}, "/source"),
        ({"source": ".", "images": "/etc"}, "/images"),
        ({"name": "a cell"}, "/name"),
        ({"name": ""}, "/name"),
        ({"split": {"validation": 2}}, "/split/validation"),
        ({"priority": 0}, "/priority"),
        ({"surprise": 1}, "/surprise"),
    ],
    ids=str,
)
@ONE_DATABASE
def test_what_is_wrong_is_told_at_its_field(
    client: TestClient, source: Path, body: dict[str, Any], pointer: str
) -> None:
    found = errors(client.post("/datasets", json={"name": "cells", "source": str(source)} | body))
    assert list(found) == [pointer]


@ONE_DATABASE
def test_a_job_of_this_kind_is_called_as_its_data_set(client: TestClient, source: Path) -> None:
    body = {"kind": "import", "name": "a cell", "spec": {"source": str(source)}}
    assert list(errors(client.post("/jobs", json=body))) == ["/name"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"digest": "x"}, "manifest is not as it should be: digest"), ({"splits": []}, "manifest is not as it should be")],
    ids=str,
)
@ONE_DATABASE
def test_a_success_that_is_none(
    client: TestClient, worker: Worker, source: Path, changes: dict[str, Any], why: str
) -> None:
    job = post(client, source).json()["id"]
    run_import(worker, job, source, **changes)
    state = client.get(f"/jobs/{job}").json()
    assert why in state["transitions"][-1]["reason"]
    assert client.get("/datasets/cells").json()["versions"] == []
    worker.claim(job)
    worker.finish("succeeded")
    assert client.get("/datasets/cells").json()["versions"] == []


@ONE_DATABASE
def test_what_is_not_there(client: TestClient, worker: Worker, source: Path) -> None:
    for path in ("/datasets/cells", "/datasets/a%20b", "/datasets/cells/versions/abcdef"):
        assert client.get(path).status_code == 404
    assert client.delete("/datasets/cells").status_code == 404
    made = make_version(worker, "cells", source)
    for digest in ("0" * 64 if made.digest[0] != "0" else "1" * 64, made.digest[:5], made.digest.upper(), "%"):
        answer = client.get(f"/datasets/cells/versions/{digest}")
        assert answer.status_code == 404, answer.text
        assert "GET /datasets/cells" in answer.json()["remedy"]
    assert errors(client.get("/datasets", params={"after": "a b"}))


@ONE_DATABASE
def test_two_versions_are_compared(client: TestClient, worker: Worker, source: Path, root: Path) -> None:
    old = make_version(worker, "cells", source)
    new = make_version(worker, "cells", write_source(root / "others", seed=1))

    def compare(before: str, after: str) -> Any:
        return client.get(f"/datasets/cells/versions/{before}/compare", params={"with": after})

    found = compare(old.digest[:8], new.digest)
    assert found.status_code == 200, found.text
    assert found.json() == compare_reports(old.report, new.report).model_dump(mode="json")
    assert not found.json()["same"]
    assert compare(new.digest, new.digest).json()["same"]
    assert compare("abc", new.digest).status_code == 404
    (fault,) = compare(old.digest, "abc").json()["errors"]
    assert (fault["pointer"], fault["remedy"][:19]) == ("with", "GET /datasets/cells")


@ONE_DATABASE
def test_pages(client: TestClient, source: Path) -> None:
    for name in ("b", "a", "C", "c"):
        assert post(client, source, name).status_code == 201
    names: list[str] = []
    while True:
        query = {"limit": 3, "owner": "@me"} | ({"after": names[-1]} if names else {})
        page = client.get("/datasets", params=query).json()
        names += [item["name"] for item in page["items"]]
        if not page["has_more"]:
            break
    assert sorted(names) == ["C", "a", "b", "c"]
    assert client.get("/datasets", params={"owner": "nobody"}).json()["items"] == []


def test_deletion(client: TestClient, worker: Worker, source: Path) -> None:
    made = make_version(worker, "cells", source)
    busy = post(client, source).json()["id"]
    refused = client.delete("/datasets/cells")
    assert refused.status_code == 409
    assert f"POST /jobs/{busy}/cancel" in refused.json()["remedy"]
    client.post(f"/jobs/{busy}/cancel")
    assert client.delete("/datasets/cells").status_code == 204
    assert client.get(f"/datasets/cells/versions/{made.digest}").status_code == 404
    assert client.post(f"/jobs/{busy}/retry").status_code == 201  # the name is there again
    assert client.get("/datasets/cells").json()["importing"] != []


@ONE_DATABASE
def test_a_name_is_its_first_owners(client: TestClient, database: Database, source: Path) -> None:
    with database.transaction() as session:
        made = {who: tokens.create(session, TokenCreate(name=who, owner=who, scopes=["write"])).token for who in "ab"}
    ours, theirs = ({"Authorization": f"Bearer {secret}"} for secret in made.values())
    body = {"name": "cells", "source": str(source)}
    job = client.post("/datasets", json=body, headers=ours)
    assert job.status_code == 201, job.text
    refused = client.post("/datasets", json=body, headers=theirs)
    assert refused.status_code == 409
    assert "the data set 'cells' is a's" in refused.json()["detail"]
    assert "another name" in refused.json()["remedy"]
    client.post(f"/jobs/{job.json()['id']}/cancel", headers=theirs)
    assert client.post(f"/jobs/{job.json()['id']}/retry", headers=theirs).status_code == 409
