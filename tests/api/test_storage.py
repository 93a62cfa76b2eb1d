from __future__ import annotations

import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from api.storage import OffsetMismatch, PartLocked
from api.stores.local import LocalStorage

JOB = "0" * 32
PART = "f" * 64


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "artifacts")


def put(storage: LocalStorage, key: str, content: bytes) -> None:
    with storage.stage(PART) as staged:
        staged.write(content)
        storage.publish(staged, key)


def everything(storage: LocalStorage) -> list[Path]:
    return [path for path in storage._root.rglob("*") if path.is_file()]


def test_what_is_published_can_be_read_and_deleted(storage: LocalStorage) -> None:
    put(storage, f"{JOB}/1-log.txt", b"hello")
    with storage.open(f"{JOB}/1-log.txt") as file:
        storage.delete(f"{JOB}/1-log.txt")
        assert file.read() == b"hello"  # who has it open reads on
    storage.delete(f"{JOB}/1-log.txt")
    with pytest.raises(FileNotFoundError):
        storage.open(f"{JOB}/1-log.txt")


def test_what_is_discarded_leaves_nothing(storage: LocalStorage) -> None:
    with storage.stage(PART) as staged:
        staged.write(b"x" * 100)
        assert staged.size == storage.staged_size(PART) == 100
        staged.discard()
    assert everything(storage) == []


def test_what_is_not_published_waits_for_the_rest(storage: LocalStorage) -> None:
    assert storage.staged_size(PART) == 0
    with storage.stage(PART) as staged:
        staged.write(b"first ")
    for start in (5, 7):
        with pytest.raises(OffsetMismatch) as other, storage.stage(PART, start):
            pass
        assert other.value.size == storage.staged_size(PART) == 6
    with storage.stage(PART, 6) as staged:
        staged.write(b"second")
        assert staged.sha256() == hashlib.sha256(b"first second").digest()
        storage.publish(staged, f"{JOB}/1-a")
    with storage.open(f"{JOB}/1-a") as file:
        assert file.read() == b"first second"
    with pytest.raises(OffsetMismatch) as other, storage.stage(PART, 6):
        pass
    assert other.value.size == 0


def test_a_file_that_comes_anew_replaces_its_part(storage: LocalStorage) -> None:
    with storage.stage(PART) as staged:
        staged.write(b"longer than the other")
    with storage.stage(PART) as staged:
        staged.write(b"other")
        assert staged.sha256() == hashlib.sha256(b"other").digest()
    assert storage.staged_size(PART) == 5


def test_a_part_has_one_writer(storage: LocalStorage) -> None:
    with storage.stage(PART) as staged:
        staged.write(b"x")
        for start in (0, 1):
            with pytest.raises(PartLocked):
                storage.stage(PART, start)
        with storage.stage("0" * 64) as other:
            other.write(b"another file")
    with storage.stage(PART, 1):
        pass


def test_a_part_that_was_published_while_somebody_opened_it_is_not_theirs(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be truncated under the name that it was published by."""
    holder = storage.stage(PART)
    holder.write(b"published")
    flock = fcntl.flock

    def late(file: Any, how: int) -> None:
        storage.publish(holder, f"{JOB}/1-a")
        holder.__exit__(None, None, None)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(PartLocked):
        storage.stage(PART)
    with storage.open(f"{JOB}/1-a") as file:
        assert file.read() == b"published"


@pytest.mark.parametrize("part", ["", "../x", "f" * 63, "F" * 64, "f" * 64 + "\n"])
def test_parts_stay_inside(storage: LocalStorage, part: str) -> None:
    with pytest.raises(ValueError, match="no name of a part"):
        storage.stage(part)
    with pytest.raises(ValueError, match="no name of a part"):
        storage.staged_size(part)


@pytest.mark.parametrize(
    "key",
    ["", "a", "../a", "a/../b", "/etc/passwd", "a/b/c", "a/.b", "staging/a", "a/b\n", "a/\x00", "./a", "a/", "é/a"],
)
def test_keys_stay_inside(storage: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="no storage key"):
        storage.open(key)
    with pytest.raises(ValueError, match="no storage key"):
        storage.delete(key)
    with storage.stage(PART) as staged, pytest.raises(ValueError, match="no storage key"):
        storage.publish(staged, key)


def test_lists_what_is_published_with_its_age(storage: LocalStorage) -> None:
    put(storage, f"{JOB}/1-a", b"a")
    put(storage, f"{JOB}/2-b", b"b")
    hour_ago = time.time() - 3600
    os.utime(storage._root / JOB / "1-a", (hour_ago, hour_ago))
    with storage.stage(PART):
        ages = {stored.key: stored.age for stored in storage.files()}
    assert ages.keys() == {f"{JOB}/1-a", f"{JOB}/2-b"}
    assert ages[f"{JOB}/1-a"] > 3599 > 60 > ages[f"{JOB}/2-b"]


def test_sweeps_only_what_an_upload_left_long_ago(storage: LocalStorage) -> None:
    (storage._root / "staging" / "left").write_bytes(b"x")
    hour_ago = time.time() - 3600
    os.utime(storage._root / "staging" / "left", (hour_ago, hour_ago))
    with storage.stage(PART) as staged:
        assert storage.sweep_staging(1800) == 1
        staged.write(b"still here")
        storage.publish(staged, f"{JOB}/1-a")
    assert [path.name for path in everything(storage)] == ["1-a"]
