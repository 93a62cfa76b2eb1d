"""An audit compares rows and files both ways, while the service goes on."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from api.database import Database
from api.models import Artifact, new_id
from api.services.files import audit
from api.services.files.audit import Audit
from api.settings import Settings
from api.storage import Storage, StorageUnavailable
from tests.support.api_client import ELSEWHERE, bearer, problem
from tests.support.databases import ONE_DATABASE
from tests.support.worker_calls import Worker, checkpoint
from wire.audit import LINE, Aborted, Finding, Progress, Summary

NAMES = [f"checkpoint-{step:08d}.pt" for step in (1, 2, 3, 4)]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RECHECK_SECONDS", 0.0)


@pytest.fixture
def storage(app: FastAPI) -> Storage:
    found: Storage = app.state.storage
    return found


@pytest.fixture
def job(post_job: Callable[..., str], spec: dict[str, Any], worker: Worker) -> str:
    """A job with four files."""
    job = post_job(spec=spec | {"checkpoint": {"keep_last": 10}})
    worker.claim(job)
    for step in (1, 2, 3, 4):
        checkpoint(worker, step, b"state %d" % step)
    return job


@pytest.fixture
def look(client: TestClient) -> Callable[..., tuple[dict[str, Finding], Summary]]:
    """Audit over HTTP; findings by artifact or, of a file without a row, by key; the summary."""

    def look(**query: Any) -> tuple[dict[str, Finding], Summary]:
        answer = client.get("/audit", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        *found, last = map(LINE.validate_json, answer.text.splitlines())
        assert isinstance(last, Summary)
        findings = [line for line in found if isinstance(line, Finding)]
        assert last.findings + last.in_flight == len(findings)
        return {finding.artifact or finding.key: finding for finding in findings}, last

    return look


Look = Callable[..., tuple[dict[str, Finding], Summary]]


def test_the_lines_may_be_plain_text(client: TestClient, job: str) -> None:
    answer = client.get("/audit", headers={"accept": "text/plain"})
    assert answer.headers["content-type"].partition(";")[0] == "text/plain"
    assert isinstance(LINE.validate_json(answer.text.splitlines()[-1]), Summary)
    refused = client.get("/audit", headers={"accept": "image/png"})
    assert refused.status_code == 406
    assert "application/x-ndjson or text/plain" in refused.json()["remedy"]


def file_of(settings: Settings, job: str, name: str) -> Path:
    (found,) = settings.storage.glob(f"{job}/*-{name}")
    return found


def test_where_all_agrees_nothing_is_found(look: Look, job: str) -> None:
    found, summary = look(verify="true")
    assert found == {}
    assert summary == Summary(rows=4, files=4, bytes_read=4 * len("state 1"), findings=0, in_flight=0)


def test_each_disagreement_is_told(look: Look, job: str, settings: Settings) -> None:
    missing, longer, other, fine = NAMES
    file_of(settings, job, missing).unlink()
    file_of(settings, job, longer).write_bytes(b"state 2 and more")
    file_of(settings, job, other).write_bytes(b"STATE 3")
    old = f"{job}/{'0' * 32}-log.txt"
    (settings.storage / old).write_bytes(b"left")
    young = f"{job}/{new_id()}-log.txt"
    (settings.storage / young).write_bytes(b"coming")
    (settings.storage / "stranger").mkdir()
    (settings.storage / "stranger" / "notes \udcff.txt").write_bytes(b"")
    strange = "stranger/notes \\udcff.txt"

    for verify in ("false", "true"):
        os.utime(settings.storage / old, (0, 0))
        os.utime(settings.storage / "stranger" / "notes \udcff.txt", (0, 0))
        found, summary = look(verify=verify)
        problems = {name: finding.problem for name, finding in found.items()}
        wrong = {missing: "missing", longer: "size", old: "unnamed", young: "in_flight", strange: "unnamed"}
        assert problems == wrong | ({other: "bytes"} if verify == "true" else {})
        assert (found[longer].expected, found[longer].found, found[longer].job) == ("7", "16", job)
        assert found[young].age_seconds is not None
        assert found[young].age_seconds < 60
        assert (summary.findings, summary.in_flight, summary.files) == (len(problems) - 1, 1, 6)
    assert (found[other].expected, found[other].found) == tuple(
        hashlib.sha256(content).hexdigest() for content in (b"state 3", b"STATE 3")
    )
    assert fine not in found


@ONE_DATABASE
def test_a_file_that_cannot_be_read(look: Look, job: str, storage: Storage) -> None:
    opened = type(storage).open

    def bad_sector(self: Any, key: str) -> Any:
        if key.endswith(NAMES[1]):
            raise OSError(5, "Input/output error")
        return opened(self, key)

    with patch.object(type(storage), "open", bad_sector):
        found, _ = look(verify="true")
    assert {name: (finding.problem, finding.found) for name, finding in found.items()} == {
        NAMES[1]: ("unreadable", "Input/output error")
    }


def test_what_is_replaced_or_deleted_meanwhile_is_no_finding(
    database: Database, storage: Storage, job: str, worker: Worker, client: TestClient
) -> None:
    seen = Audit(database, storage)
    rows = next(seen._rows())
    files = list(storage.files())
    checkpoint(worker, 1, b"from a later attempt")
    assert [line for row in rows for line in seen._check_row(row)] == []
    worker.finish("succeeded")
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert [line for row in rows for line in seen._check_row(row)] == []
    assert list(seen._check_files(files)) == []


def test_pages_go_on_behind_each_other(look: Look, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)
    assert look()[1] == Summary(rows=4, files=4, bytes_read=0, findings=0, in_flight=0)


def test_no_transaction_is_open_while_a_file_is_looked_at(
    database: Database, storage: Storage, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_now: set[int] = set()
    here = threading.get_ident()  # the application's own threads go on
    event.listen(database.engine, "begin", lambda _: open_now.add(threading.get_ident()))
    for end in ("commit", "rollback"):
        event.listen(database.engine, end, lambda _: open_now.discard(threading.get_ident()))
    opened = type(storage).open

    def watched(self: Any, key: str) -> Any:
        assert here not in open_now
        return opened(self, key)

    monkeypatch.setattr(type(storage), "open", watched)
    lines = list(Audit(database, storage, verify=True).lines())
    assert [type(line) for line in lines] == [Summary]


def test_memory_stays_at_one_page(
    database: Database, storage: Storage, job: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty pages of files without a row, and a row with a file of 16 MB."""
    monkeypatch.setattr(audit, "PAGE", 100)
    with file_of(settings, job, NAMES[0]).open("r+b") as file:
        file.truncate(16_000_000)
    with database.transaction() as session:
        session.execute(update(Artifact).where(Artifact.name == NAMES[0]).values(size=16_000_000))
    for number in range(3_000):
        (settings.storage / job / f"{number:032x}-log.txt").touch()
    tracemalloc.start()
    try:
        counts: dict[type, int] = {}
        for line in Audit(database, storage, verify=True).lines():
            counts[type(line)] = counts.get(type(line), 0) + 1
            if type(line) is Finding and counts[Finding] == 300:  # all queries are known by now
                tracemalloc.reset_peak()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts[Finding] == 3_001
    assert peak < 3_000_000


def test_a_long_file_gives_signs_of_life(
    database: Database, storage: Storage, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(audit, "READ_SIZE", 1)
    told = [line for line in Audit(database, storage, verify=True).lines() if isinstance(line, Progress)]
    assert [line.bytes_read for line in told][:7] == [1, 2, 3, 4, 5, 6, 7]


def test_it_ends_when_the_server_stops(database: Database, storage: Storage, job: str) -> None:
    stop = threading.Event()
    lines = Audit(database, storage, stopped=stop.is_set).lines()
    stop.set()
    (last,) = lines
    assert isinstance(last, Aborted)
    assert "told to stop" in last.detail


@ONE_DATABASE
@pytest.mark.parametrize("place", ["open", "files"])
def test_a_storage_that_is_away_ends_it(database: Database, storage: Storage, job: str, place: str) -> None:
    def away(*_: Any) -> Any:
        raise StorageUnavailable("the bucket does not answer")

    with patch.object(type(storage), place, away):
        *_, last = Audit(database, storage).lines()
    assert isinstance(last, Aborted)
    assert "the bucket does not answer" in last.detail


def test_a_database_that_is_away_ends_it(client: TestClient, app: FastAPI, job: str, tmp_path: Path) -> None:
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    try:
        (last,) = Audit(away, app.state.storage).lines()
    finally:
        away.close()
    assert isinstance(last, Aborted)
    assert "the database does not answer" in last.detail


def test_it_is_an_administrators(app: FastAPI, client: TestClient) -> None:
    stranger = TestClient(app, raise_server_exceptions=False, **ELSEWHERE)
    assert "no token" in problem(stranger.get("/audit"), 401)
    for scope, status in (("read", 403), ("write", 403), ("admin", 200)):
        token = client.post("/tokens", json={"name": "t", "scopes": [scope]}).json()["token"]
        assert stranger.get("/audit", headers=bearer(token)).status_code == status


def test_a_finding_is_told_when_it_is_found(
    database: Database, storage: Storage, job: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the end, which may be hours away: the rest is not looked at before the finding is taken."""
    looked: list[str] = []
    file_of(settings, job, NAMES[0]).unlink()
    monkeypatch.setattr(storage, "files", lambda: iter(looked.append("listed") or ()))
    lines = Audit(database, storage, verify=True).lines()
    assert isinstance(next(lines), Finding)
    assert looked == []
    list(lines)
    assert looked == ["listed"]
