from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from api.storage import LocalStorage

JOB = "0" * 32


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "artifacts")


def put(storage: LocalStorage, key: str, content: bytes) -> None:
    with storage.stage() as staged:
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


def test_what_is_not_published_leaves_nothing(storage: LocalStorage) -> None:
    with storage.stage() as staged:
        staged.write(b"x" * 100)
        assert staged.size == 100
        assert len(everything(storage)) == 1
    assert everything(storage) == []


@pytest.mark.parametrize(
    "key",
    ["", "a", "../a", "a/../b", "/etc/passwd", "a/b/c", "a/.b", "staging/a", "a/b\n", "a/\x00", "./a", "a/", "é/a"],
)
def test_keys_stay_inside(storage: LocalStorage, key: str) -> None:
    with pytest.raises(ValueError, match="no storage key"):
        storage.open(key)
    with pytest.raises(ValueError, match="no storage key"):
        storage.delete(key)
    with storage.stage() as staged, pytest.raises(ValueError, match="no storage key"):
        storage.publish(staged, key)


def test_lists_what_is_published_with_its_age(storage: LocalStorage) -> None:
    put(storage, f"{JOB}/1-a", b"a")
    put(storage, f"{JOB}/2-b", b"b")
    hour_ago = time.time() - 3600
    os.utime(storage._root / JOB / "1-a", (hour_ago, hour_ago))
    with storage.stage():
        ages = dict(storage.files())
    assert ages.keys() == {f"{JOB}/1-a", f"{JOB}/2-b"}
    assert ages[f"{JOB}/1-a"] > 3599 > 60 > ages[f"{JOB}/2-b"]


def test_sweeps_only_what_an_upload_left_long_ago(storage: LocalStorage) -> None:
    (storage._root / "staging" / "left").write_bytes(b"x")
    hour_ago = time.time() - 3600
    os.utime(storage._root / "staging" / "left", (hour_ago, hour_ago))
    with storage.stage() as staged:
        assert storage.sweep_staging(1800) == 1
        staged.write(b"still here")
        storage.publish(staged, f"{JOB}/1-a")
    assert [path.name for path in everything(storage)] == ["1-a"]
