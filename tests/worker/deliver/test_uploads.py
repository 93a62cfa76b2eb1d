from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api_double import Double, Fault
from worker.deliver.client import AttemptClient
from worker.deliver.delivery import Undelivered
from worker.deliver.retry import Refused, StaleAttempt
from worker.deliver.uploads import Uploads
from worker.folder import WorkFolder

Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def uploads(attempt: AttemptClient, folder: WorkFolder, stale: threading.Event) -> Uploads:
    return Uploads(attempt, folder.staging, stale.set)


def checkpoint(uploads: Uploads, folder: Path, step: int) -> bytes:
    """Write a checkpoint, submit it, and prune it at once, as the engine may."""
    path, data = folder / f"{step}.pt", os.urandom(100)
    path.write_bytes(data)
    uploads.submit(path, f"checkpoint-{step:08d}.pt", "checkpoint", step=step, slot="checkpoint")
    path.unlink()
    return data


def test_a_newer_checkpoint_takes_the_place_of_a_waiting_one(
    double: Double, uploads: Uploads, folder: WorkFolder, tmp_path: Path, until: Until
) -> None:
    all_submitted = threading.Event()
    double.faults["artifacts"] = [Fault(hold=all_submitted)]
    data = {1: checkpoint(uploads, tmp_path, 1)}
    until(lambda: len(double.seen("artifacts")) == 1)  # 1 is on its way
    data[2] = checkpoint(uploads, tmp_path, 2)
    (tmp_path / "best").write_bytes(b"weights")
    uploads.submit(tmp_path / "best", "best.safetensors", "weights", step=2)
    for step in (3, 4):
        data[step] = checkpoint(uploads, tmp_path, step)
    all_submitted.set()
    uploads.close(60)
    assert [name for name, _, _ in double.uploads] == [
        "checkpoint-00000001.pt",
        "checkpoint-00000004.pt",
        "best.safetensors",
    ]
    assert double.uploads[0][2] == data[1]
    assert double.uploads[1][2] == data[4]
    assert list(folder.staging.iterdir()) == []


def test_what_goes_first_also_goes_before_the_checkpoint_that_takes_a_waiting_one_s_place(
    double: Double, uploads: Uploads, tmp_path: Path, until: Until
) -> None:
    all_submitted = threading.Event()
    double.faults["artifacts"] = [Fault(hold=all_submitted)]
    checkpoint(uploads, tmp_path, 1)
    until(lambda: len(double.seen("artifacts")) == 1)  # 1 is on its way
    checkpoint(uploads, tmp_path, 2)
    for step in (2, 3):
        (tmp_path / "curves").write_bytes(b"%d" % step)
        uploads.submit(tmp_path / "curves", f"curves-student-{step:08d}.json", "curves", step=step, first=True)
        (tmp_path / "curves").unlink()
        checkpoint(uploads, tmp_path, step + 1)
    all_submitted.set()
    uploads.close(60)
    sent = {name: body for name, _, body in double.uploads}
    assert next(iter(sent)) == "checkpoint-00000001.pt"
    assert set(list(sent)[1:3]) == {"curves-student-00000002.json", "curves-student-00000003.json"}
    assert list(sent)[3:] == ["checkpoint-00000004.pt"]
    assert sent["curves-student-00000003.json"] == b"3"


def test_a_file_is_uploaded_as_it_was_when_it_was_submitted(
    double: Double, uploads: Uploads, tmp_path: Path, until: Until
) -> None:
    all_submitted = threading.Event()
    double.faults["artifacts"] = [Fault(hold=all_submitted)]
    checkpoint(uploads, tmp_path, 1)
    until(lambda: len(double.seen("artifacts")) == 1)
    log, best = tmp_path / "log.txt", tmp_path / "best.safetensors"
    log.write_bytes(b"one line\n")
    best.write_bytes(b"first")
    uploads.submit(log, "log.txt", "log")
    uploads.submit(best, "best.safetensors", "weights", step=3)
    with log.open("ab") as file:
        file.write(b"another line\n")
    (tmp_path / "new").write_bytes(b"second")
    (tmp_path / "new").replace(best)
    all_submitted.set()
    uploads.close(60)
    assert {name: body for name, _, body in double.uploads[1:]} == {
        "log.txt": b"one line\n",
        "best.safetensors": b"first",
    }


def test_an_upload_survives_an_outage(double: Double, uploads: Uploads, tmp_path: Path) -> None:
    double.faults["artifacts"] = [Fault(drop="before"), Fault(status=507), Fault(drop="after")]
    data = checkpoint(uploads, tmp_path, 1)
    uploads.close(30)
    assert double.uploads[-1][2] == data


def test_an_upload_goes_on_where_it_was_cut(double: Double, uploads: Uploads, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "large").write_bytes(data)
    double.faults["artifacts"] = [Fault(cut=1_000_000), Fault(cut=500_000), Fault(drop="after")]
    uploads.submit(tmp_path / "large", "best.safetensors", "weights", step=7)
    uploads.close(60)
    assert [(name, query, body == data) for name, query, body in double.uploads] == [
        ("best.safetensors", {"kind": "weights", "step": "7"}, True)
    ]
    sent = [(r.method, r.headers.get("upload-offset"), r.headers["content-length"]) for r in double.seen("artifacts")]
    assert sent == [
        ("PUT", None, "3000000"),
        ("PATCH", "1000000", "2000000"),
        ("PATCH", "1500000", "1500000"),
        ("PATCH", "3000000", "0"),
    ]


def test_an_offset_that_has_moved_on_is_asked_for_again(double: Double, uploads: Uploads, tmp_path: Path) -> None:
    """The API was still taking in what the broken connection had brought."""
    wrong = {"title": "offset", "status": 409, "type": "/problems/wrong-upload-offset"}
    double.faults["artifacts"] = [Fault(cut=10), Fault(status=409, body=wrong)]
    data = checkpoint(uploads, tmp_path, 1)
    uploads.close(30)
    assert [body for _, _, body in double.uploads] == [data]
    assert [request.method for request in double.seen("artifacts")] == ["PUT", "PATCH", "PATCH"]


def test_a_refused_file_is_an_error(double: Double, uploads: Uploads, tmp_path: Path, until: Until) -> None:
    double.always["artifacts"] = Fault(status=413, body={"title": "too large", "status": 413})
    checkpoint(uploads, tmp_path, 1)
    until(lambda: uploads.error)
    checkpoint(uploads, tmp_path, 2)  # does no harm and piles nothing up
    with pytest.raises(Refused, match="too large"):
        uploads.close(60)
    assert len(double.seen("artifacts")) == 1


def test_a_stale_attempt_is_told_at_once(
    double: Double, uploads: Uploads, tmp_path: Path, stale: threading.Event
) -> None:
    double.stale = True
    checkpoint(uploads, tmp_path, 1)
    assert stale.wait(60)
    with pytest.raises(StaleAttempt):
        uploads.close(60)


def test_a_file_waits_for_its_event_and_may_be_given_up(
    double: Double, uploads: Uploads, tmp_path: Path, until: Until
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    ready, never = threading.Event(), threading.Event()
    uploads.submit(tmp_path / "first", "first.txt", "log", after=ready)
    uploads.submit(tmp_path / "second", "second.txt", "log", after=never)
    assert not double.seen("artifacts")
    ready.set()
    until(lambda: double.uploads)
    with pytest.raises(Undelivered, match="uploads"):
        uploads.close(0.5)
    assert [name for name, _, _ in double.uploads] == ["first.txt"]
    uploads._thread.join(60)
    assert not uploads._thread.is_alive()


def test_an_api_that_stays_away_is_reported(double: Double, uploads: Uploads, tmp_path: Path) -> None:
    double.always["artifacts"] = Fault(status=503)
    checkpoint(uploads, tmp_path, 1)
    with pytest.raises(Undelivered, match="uploads"):
        uploads.close(0.5)
