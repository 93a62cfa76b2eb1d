"""What only a folder has to cope with; tests/api/test_storage.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.stores.local import LocalStorage

JOB = "0" * 32
PART = "f" * 64


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def put(storage: LocalStorage, key: str) -> None:
    with storage.stage(PART) as staged:
        staged.write(b"bytes")
        storage.publish(staged, key)


def closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As to whoever is not root."""
    entries = Path.iterdir

    def iterdir(path: Path) -> object:
        if path == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return entries(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def test_the_storage_may_be_the_top_of_a_disk(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, f"{JOB}/1-a")
    (tmp_path / "lost+found").mkdir(mode=0o700)
    closed(tmp_path / "lost+found", monkeypatch)
    assert [stored.key for stored in storage.files()] == [f"{JOB}/1-a"]


def test_a_job_s_folder_that_is_closed_is_told(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, f"{JOB}/1-a")
    closed(tmp_path / JOB, monkeypatch)
    with pytest.raises(PermissionError):
        list(storage.files())


def test_the_folder_of_a_job_goes_with_its_last_file(storage: LocalStorage, tmp_path: Path) -> None:
    put(storage, f"{JOB}/1-a")
    put(storage, f"{JOB}/2-b")
    storage.delete(f"{JOB}/1-a")
    assert (tmp_path / JOB).is_dir()
    storage.delete(f"{JOB}/2-b")
    storage.delete(f"{JOB}/2-b")
    assert [path.name for path in tmp_path.iterdir()] == ["staging"]


def test_a_folder_that_goes_just_before_a_file_comes_is_made_again(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(storage, f"{JOB}/1-a")
    replace = Path.replace

    def late(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        storage.delete(f"{JOB}/1-a")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", late)
    put(storage, f"{JOB}/2-b")
    assert [(stored.key, stored.size) for stored in storage.files()] == [(f"{JOB}/2-b", 5)]


def test_a_folder_that_goes_while_files_are_listed_has_none(storage: LocalStorage, tmp_path: Path) -> None:
    put(storage, f"{JOB}/1-a")
    put(storage, f"{'1' * 32}/1-a")
    listed = storage.files()
    first = next(listed)
    (second,) = {f"{JOB}/1-a", f"{'1' * 32}/1-a"} - {first.key}
    storage.delete(second)
    assert list(listed) == []
