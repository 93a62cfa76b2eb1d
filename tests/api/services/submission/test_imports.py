"""Imports of data sets: what their specification becomes, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.databases import ONE_DATABASE
from tests.support.specs import errors


def post(client: TestClient, *, dry: bool = True, **spec: Any) -> Any:
    body = {"kind": "import", "name": "cells", "spec": spec}
    return client.post("/jobs", params={"dry_run": dry}, json=body)


@pytest.mark.parametrize("of", ["images", "train.json"])
@ONE_DATABASE
def test_paths_become_absolute(client: TestClient, root: Path, of: str) -> None:
    (root / "train.json").write_text("{}")
    (root / "images").mkdir(exist_ok=True)
    answer = post(client, source=of, images="images")
    assert answer.status_code == 200, answer.text
    spec = answer.json()["spec"]
    assert (spec["source"], spec["images"], spec["format"]) == (str(root / of), str(root / "images"), "auto")
    assert post(client, **spec).json()["spec"] == spec


def test_it_is_a_job_like_any_other(client: TestClient, root: Path) -> None:
    job = client.post("/jobs", json={"name": "cells", "spec": {"source": str(root)}}).json()
    assert (job["kind"], job["status"]) == ("import", "queued")
    for refused in ("weights", "images", "evaluations/1/curves?model=student"):
        assert client.get(f"/jobs/{job['id']}/{refused}").status_code == 404
    answer = client.post(f"/jobs/{job['id']}/predict", files={"image": b"x"})
    assert answer.status_code == 404, answer.text
    assert "of kind import" in answer.json()["detail"]
    assert client.post(f"/jobs/{job['id']}/pause").status_code == 409


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"source": "nowhere"}, "/spec/source"),
        ({"source": "/etc"}, "/spec/source"),
        ({"source": "/etc/passwd"}, "/spec/source"),
        ({"source": "a\x00b"}, "/spec/source"),
        ({"source": ".", "images": "nowhere"}, "/spec/images"),
        ({"source": ".", "split": {"validation": 1}}, "/spec/split/validation"),
        ({"source": ".", "split": {"group_by": "("}}, "/spec/split/group_by"),
        ({"source": ".", "format": "tiff"}, "/spec/format"),
        ({"format": "coco"}, "/spec/source"),
    ],
    ids=str,
)
@ONE_DATABASE
def test_what_is_wrong_is_told_at_its_place(client: TestClient, spec: dict[str, Any], pointer: str) -> None:
    found = errors(post(client, **spec))
    assert list(found) == [pointer]
    assert all(
        fault["remedy"]
        for fault in client.post("/jobs", json={"kind": "import", "name": "n", "spec": spec}).json()["errors"]
    )
