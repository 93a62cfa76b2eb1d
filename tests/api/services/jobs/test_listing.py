"""Lists of jobs under filters, held against a plain reading of all jobs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.database import Database
from api.models import Job, JobLabel
from api.services.jobs import listing

OWNERS = (None, "ann", "bob")
STATUSES: tuple[list[str], ...] = ([], ["running"], ["succeeded"], ["queued", "succeeded", "queued"])
LABELS: tuple[list[str], ...] = ([], ["team=a"], ["team=b"], ["rare=yes"], ["team=a", "rare=yes"], ["team=c"])


@pytest.fixture
def jobs(client: TestClient, post_job: Callable[..., str], database: Database) -> list[dict[str, Any]]:
    """Sixty jobs, newest first: most of them succeeded, most of team a, few rare."""
    dice = random.Random(0)
    with database.transaction() as session:
        model = session.get_one(Job, post_job())
        for number in range(60):
            labels = {"team": dice.choice("aaab")} | ({"rare": "yes"} if number % 17 == 0 else {})
            same = {name: getattr(model, name) for name in ("spec", "spec_version", "queue", "created_at")}
            kind = ("train", "distill", "evaluate")[number % 3]
            status = dice.choice(["succeeded"] * 8 + ["running", "queued"])
            owner = dice.choice(["ann", "ann", "bob"])
            job = Job(
                **same,
                kind=kind,
                name=str(number % 20),
                updated_at=model.updated_at,
                labels=labels,
                status=status,
                owner=owner,
            )
            session.add(job)
            session.flush()
            session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in labels.items())
        session.delete(model)
    found: list[dict[str, Any]] = client.get("/jobs?limit=200").json()["items"]
    assert [job["name"] for job in found] == [str(number % 20) for number in reversed(range(60))]
    return found


def pages(client: TestClient, limit: int, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = {"after": found[-1]["id"]} if found else {}
        page = client.get("/jobs", params={"limit": limit, **query, **after}).json()
        assert len(page["items"]) == limit or not page["has_more"]
        found += page["items"]
        if not page["has_more"]:
            return found


@pytest.mark.parametrize("few", [1, 5, 1000])  # whichever way the filters are gone through
def test_filters(client: TestClient, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    for owner, statuses, labels in itertools.product(OWNERS, STATUSES, LABELS):
        query = {"status": statuses, "label": labels} | ({"owner": owner} if owner else {})
        wanted = [
            job
            for job in jobs
            if (owner is None or job["owner"] == owner)
            and (not statuses or job["status"] in statuses)
            and all(job["labels"].get(label[: label.index("=")]) == label[label.index("=") + 1 :] for label in labels)
        ]
        assert pages(client, 20, **query) == wanted, query  # three pages, if few are left out


@pytest.mark.parametrize("few", [1, 1000])
def test_names_and_the_beginnings_of_ids(
    client: TestClient, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    one = jobs[30]
    more: tuple[dict[str, Any], ...] = ({}, {"status": one["status"]}, {"owner": one["owner"], "label": ["team=a"]})
    for length, name, other in itertools.product((0, 4, 12, 32), (None, one["name"], "no such"), more):
        query = other | ({"id": one["id"][:length]} if length else {}) | ({"name": name} if name else {})
        wanted = [
            job
            for job in jobs
            if job["id"].startswith(one["id"][:length])
            and name in (None, job["name"])
            and other.get("status", job["status"]) == job["status"]
            and other.get("owner", job["owner"]) == job["owner"]
            and ("label" not in other or job["labels"].get("team") == "a")
        ]
        assert pages(client, 7, **query) == wanted, query


@pytest.mark.parametrize("few", [1, 5, 1000])
def test_kinds_and_searches(
    client: TestClient, jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(listing, "_FEW", few)
    kinds: tuple[list[str], ...] = ([], ["distill"], ["distill", "train", "distill"])
    searches = (None, "1", "No Such", "100% _", jobs[30]["id"][:-1].upper())
    others: tuple[dict[str, Any], ...] = ({}, {"owner": "ann"}, {"status": ["queued", "succeeded"]})
    for kind, search, other in itertools.product(kinds, searches, others):
        query = other | {"kind": kind} | ({"search": search} if search else {})
        wanted = [
            job
            for job in jobs
            if (not kind or job["kind"] in kind)
            and (search is None or search in job["name"] or job["id"].startswith(search.lower()))
            and other.get("owner", job["owner"]) == job["owner"]
            and job["status"] in other.get("status", [job["status"]])
        ]
        assert pages(client, 20, **query) == wanted, query


def test_a_search_takes_the_text_as_it_is(client: TestClient, post_job: Callable[..., str]) -> None:
    found = {name: post_job(name=name) for name in ("Great 100% teacher_1", "greater", "École")}
    for search, names in {
        "GREAT": ["greater", "Great 100% teacher_1"],
        "0% t": ["Great 100% teacher_1"],
        "r_1": ["Great 100% teacher_1"],
        "_": ["Great 100% teacher_1"],
        "École": ["École"],
        "x": [],
    }.items():
        answer = client.get("/jobs", params={"search": search}).json()
        assert [job["id"] for job in answer["items"]] == [found[name] for name in names], search


def test_whoever_asks_finds_the_own_jobs(
    client: TestClient, jobs: list[dict[str, Any]], post_job: Callable[..., str]
) -> None:
    assert client.get("/jobs?owner=@me").json()["items"] == []
    mine = post_job()  # without a token: of `local`
    assert [job["id"] for job in client.get("/jobs?owner=@me").json()["items"]] == [mine]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        *(("id=123", "id"), ("id=XYZW", "id"), ("id=" + "0" * 33, "id"), ("owner=@you", "owner")),
        *(("name=", "name"), ("name=%00", "name"), ("name=" + "x" * 201, "name")),
    ],
)
@pytest.mark.parametrize("path", ["/jobs", "/sweeps"])
def test_what_can_be_no_filter_is_refused(client: TestClient, path: str, query: str, pointer: str) -> None:
    answer = client.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize(("query", "pointer"), [("search=", "search"), ("search=%00", "search"), ("kind=no", "kind")])
def test_what_can_be_no_search_is_refused(client: TestClient, query: str, pointer: str) -> None:
    answer = client.get(f"/jobs?{query}")
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
