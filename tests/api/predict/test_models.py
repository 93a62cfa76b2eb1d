"""Graphs on the disk of the API: fetched once, verified, and bounded."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from api.predict.models import DamagedModel, ModelCache


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_graph_is_fetched_once_and_the_oldest_goes(tmp_path: Path) -> None:
    cache, fetched = ModelCache(tmp_path / "models", 25), []

    def get(content: bytes) -> Path:
        def source() -> BinaryIO:
            fetched.append(content)
            return io.BytesIO(content)

        return cache.path(digest(content), source)

    first, second, third = b"1" * 10, b"2" * 10, b"3" * 10
    paths = [get(first), get(second)]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1000 - age, 1000 - age))
    assert get(first).read_bytes() == first
    assert fetched == [first, second]
    get(third)
    assert sorted(path.read_bytes() for path in (tmp_path / "models").iterdir()) == [first, third]
    large = b"4" * 99  # larger than all that may be kept: it is used all the same
    assert get(large).read_bytes() == large
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_other_bytes_are_not_kept(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models", 100)
    with pytest.raises(DamagedModel):
        cache.path(digest(b"right"), lambda: io.BytesIO(b"wrong"))
    with pytest.raises(OSError, match="away"):
        cache.path(digest(b"right"), raising)
    assert list((tmp_path / "models").iterdir()) == []


def test_other_processes_share_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that another API process removes at any moment, and one that it was killed in the middle of."""
    wanted, other = b"1" * 10, b"2" * 10
    cache = ModelCache(tmp_path, 15)
    path = cache.path(digest(wanted), lambda: io.BytesIO(wanted))
    gone, left, fetching = tmp_path / "gone.onnx", tmp_path / ".fetch-left", tmp_path / ".fetch-now"
    for each in (left, fetching):
        each.touch()
    os.utime(left, (1000, 1000))
    listed = list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda _: iter([*listed, gone]))
        patch.setattr(Path, "exists", lambda _: True)  # it was there a moment ago
        found = cache.path(digest(other), lambda: io.BytesIO(other))
    assert found.read_bytes() == other
    assert not left.exists()
    assert fetching.exists()
    assert not gone.exists()
    assert path.exists()  # `found` was not listed then; the next time it counts
    cache.path(digest(other), raising)
    assert not path.exists()


def raising() -> BinaryIO:
    raise OSError("away")
