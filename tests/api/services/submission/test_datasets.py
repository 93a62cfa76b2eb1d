"""The cached check of annotation files. The memory bound and the time-out are tried on real files."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.database import Database
from api.errors import Unavailable
from api.models import Dataset
from api.processes import bounded
from api.services.submission import datasets
from api.services.submission.datasets import CheckFailed, CheckResult
from api.services.submission.roots import open_file
from crosskd.spec.coco.survey import Use
from tests.support.databases import ONE_DATABASE

USE = Use("train")


def write_coco(path: Path, *, boxes: int = 2, names: tuple[str, ...] = ("dog", "cat"), polygon: int = 0) -> Path:
    """A valid file; `polygon` numbers of outline per box make it as large as one likes."""
    outline = [round(i * 64 / polygon, 2) for i in range(polygon)]
    with path.open("w") as file:
        file.write('{"images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}], "annotations": [')
        for i in range(boxes):
            box = {"id": i, "image_id": 1, "category_id": 0, "bbox": [1, 1, 9, 9], "segmentation": [outline]}
            file.write((", " if i else "") + json.dumps(box))
        categories = [{"id": i, "name": name} for i, name in enumerate(names)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path


def examine(database: Database, path: Path, seconds: float, use: Use) -> CheckResult:
    with open_file(str(path), [path.parent]) as file:
        return datasets.examine(database, file, seconds, use)


@pytest.fixture(autouse=True)
def _a_file_is_checked_once() -> None:
    """Not here: each check is a real process."""


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The checks that were really run."""
    ran: list[Any] = []
    real = subprocess.run

    def run(command: list[str], **how: Any) -> Any:
        ran.append(command)
        return real(command, **how)

    monkeypatch.setattr(bounded.subprocess, "run", run)
    return ran


def hold_checks(monkeypatch: pytest.MonkeyPatch, until: threading.Event, begun: threading.Event | None = None) -> None:
    """Each check waits for `until`, as long as one of a very large file; `begun` is set when one waits."""
    real = bounded.subprocess.run

    def run(command: list[str], **how: Any) -> Any:
        if begun is not None:
            begun.set()
        assert until.wait(60)
        return real(command, **how)

    monkeypatch.setattr(bounded.subprocess, "run", run)


def test_an_unchanged_file_is_not_read_again(database: Database, tmp_path: Path, checks: list[Any]) -> None:
    path = write_coco(tmp_path / "a.json")
    first = examine(database, path, 60, USE)
    assert first.classes == ["dog", "cat"]
    assert (first.annotations, first.use and first.use["boxes"], first.fault_count) == (2, 2, 0)
    assert examine(database, path, 60, USE) == first
    os.utime(path)  # looks new, is not: its digest tells
    assert examine(database, path, 60, USE) == first
    assert examine(database, Path(write_coco(tmp_path / "copy.json")), 60, USE) == first
    assert len(checks) == 1
    write_coco(path, names=("cow",))
    assert examine(database, path, 60, USE).classes == ["cow"]
    assert len(checks) == 2
    with database.reading() as session:
        assert session.query(Dataset).count() == 2


def test_each_use_of_a_file_is_remembered(database: Database, tmp_path: Path, checks: list[Any]) -> None:
    """Training and validation may share a file, and jobs may differ in what they take of it."""
    path = write_coco(tmp_path / "a.json")
    uses = [Use("train", min_side=side) for side in (0.0, 9.0, 10.0)] + [Use("val"), Use("train", classes=("cat",))]
    first = [examine(database, path, 60, use) for use in uses]
    assert [result.use and result.use["boxes"] for result in first] == [2, 2, 0, 2, 0]
    assert [examine(database, path, 60, use) for use in uses] == first
    assert len(checks) == len(uses)


def test_faults_are_remembered_too(database: Database, tmp_path: Path, checks: list[Any]) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"images": [{"id": 1, "file_name": "caf\\u00e9\\u0000", "width": 1, "height": NaN}]}')
    first = examine(database, path, 60, USE)
    assert first.fault_count == len(first.faults) == 4
    assert examine(database, path, 60, Use("val")) == first  # however the file is used
    assert len(checks) == 1


def test_the_verdict_of_older_rules_is_not_used(
    database: Database, tmp_path: Path, checks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_coco(tmp_path / "a.json")
    examine(database, path, 60, USE)
    monkeypatch.setattr(datasets, "VERSION", datasets.VERSION + 1)
    examine(database, path, 60, USE)
    examine(database, path, 60, USE)
    assert len(checks) == 2


@ONE_DATABASE  # the process that checks knows none
def test_a_check_that_takes_too_long_is_ended(database: Database, tmp_path: Path) -> None:
    path = write_coco(tmp_path / "big.json", boxes=40_000, polygon=75)
    with pytest.raises(CheckFailed) as failed:
        examine(database, path, 0.05, USE)
    assert "within 0.05 s" in failed.value.detail
    assert "CROSSKD_COCO_CHECK_SECONDS" in failed.value.remedy


def test_a_path_that_is_too_long_to_index_is_checked_all_the_same(database: Database, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["é" * 120] * 10)
    folder.mkdir(parents=True)
    path = write_coco(folder / "a.json")
    assert examine(database, path, 60, USE).fault_count == 0


@pytest.mark.parametrize("moment", ["_digest", "_check"])
def test_a_link_that_is_changed_before_the_file_is_read_leads_nowhere_else(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (tmp_path / "outside").mkdir()
    outside = write_coco(tmp_path / "outside" / "secret.json", names=("secret",))
    path = write_coco(tmp_path / "a.json")
    real = getattr(datasets, moment)

    def swap_first(*arguments: Any) -> Any:
        path.unlink()
        path.symlink_to(outside)
        return real(*arguments)

    monkeypatch.setattr(datasets, moment, swap_first)
    assert examine(database, path, 60, USE).classes == ["dog", "cat"]


def test_one_check_per_file_and_few_that_wait(
    database: Database, tmp_path: Path, checks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MAX_WAITING", 3)
    path = write_coco(tmp_path / "a.json")
    outcomes: list[Any] = []
    two_refused = threading.Event()
    hold_checks(monkeypatch, two_refused)

    def ask() -> None:
        try:
            outcomes.append(examine(database, path, 60, USE).fault_count)
        except Unavailable as error:
            outcomes.append(error.status)
            if len(outcomes) == 2:
                two_refused.set()

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 0, 0, 503, 503]
    assert len(checks) == 1


def test_a_large_file_costs_little_memory(tmp_path: Path) -> None:
    """20 MB, which `json.load` turns into five times as much; one child, so that its peak is its own."""
    path = write_coco(tmp_path / "big.json", boxes=40_000, polygon=75)
    size = path.stat().st_size
    assert size > 18_000_000
    peaks = []
    for program in (
        "import sys; from api.services.submission.coco_check import main; main('3', '60')",
        "import json, sys; json.load(open(3))",
    ):
        # ru_maxrss of a fresh process starts at its parent's: a small shell stands between it and pytest.
        script = (
            f"{program}; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        command = ["sh", "-c", '"$0" -c "$1" 3<"$2"; exit $?', sys.executable, script, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, input=json.dumps(USE.values()))
        peaks.append(int(done.stderr) * 1024)
    streamed, loaded = peaks
    assert streamed < 60_000_000
    assert loaded > 1.5 * streamed


@ONE_DATABASE
def test_more_than_the_memory_allows_is_refused_not_fatal(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    own = resource.getrlimit(resource.RLIMIT_AS)
    program = "import api.services.submission.coco_check as c, sys; c.MAX_MEMORY = 40 << 20; c.main(*sys.argv[1:])"
    monkeypatch.setattr(datasets, "COMMAND", [sys.executable, "-c", program])
    path.write_text(json.dumps({"images": [{"id": i} for i in range(600_000)]}))
    with pytest.raises(CheckFailed, match="more ids than can be checked"):
        examine(database, path, 60, USE)
    assert resource.getrlimit(resource.RLIMIT_AS) == own


def test_the_api_answers_while_a_large_file_is_checked(
    app: FastAPI, client: TestClient, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[httpx.Response] = []
    begun, answered = threading.Event(), threading.Event()
    hold_checks(monkeypatch, answered, begun)
    body = {"kind": "train", "name": "large", "spec": spec}
    post = threading.Thread(target=lambda: answers.append(client.post("/jobs?dry_run=true", json=body)))
    post.start()
    assert begun.wait(60)
    for _ in range(3):
        assert client.get("/health").status_code == 200
    assert answers == []
    answered.set()
    post.join()
    assert answers[0].status_code == 200, answers[0].text
