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


def raising() -> BinaryIO:
    raise OSError("away")
