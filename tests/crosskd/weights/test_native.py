"""Our weights files: whole or not at all, and readable without running anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from crosskd.errors import CrossKDError, WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.weights.shapes import expected_shapes
from crosskd.weights.native import read_header, read_weights, write_weights
from tests.support import small
from tests.support.toys import full_disk

CLASSES = ["cat", "dög", "bird"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "best.safetensors"


def write(path: Path, seed: int = 0) -> None:
    model = small.detector(seed)
    write_weights(path, model.state_dict(), model=model.config, classes=CLASSES, extra={"step": "12", "ap": "0.5"})


def test_what_is_written_is_read(path: Path) -> None:
    write(path)
    state, metadata = read_weights(path)
    expected = small.detector(0).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert {name: metadata[name] for name in ("format", "version", "step", "ap")} == {
        "format": "crosskd",
        "version": "1",
        "step": "12",
        "ap": "0.5",
    }
    assert json.loads(metadata["classes"]) == CLASSES
    assert ModelConfig.model_validate_json(metadata["model"]) == small.config()


def test_the_header_alone_tells_names_types_and_shapes(path: Path) -> None:
    write(path)
    metadata, entries = read_header(path)
    assert metadata == read_weights(path)[1]
    shapes = expected_shapes(small.config(), small.CLASSES)
    assert {name: shape for name, (_, shape) in entries.items()} == shapes
    assert entries["head.cls.bias"][0] == "F32"
    assert entries["backbone.bn1.num_batches_tracked"] == ("I64", ())


def test_a_failed_write_leaves_the_old_file_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, seed=1)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_a_failure_of_the_infrastructure_and_leaves_the_old_file(path: Path) -> None:
    write(path)
    before = path.read_bytes()
    with full_disk(), pytest.raises(CrossKDError, match=r"best\.safetensors cannot be written: .*large") as caught:
        write(path, seed=1)
    assert caught.value.failure_class == "infrastructure"
    assert "Free space" in caught.value.remedy
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_tensors_that_share_memory_or_are_views_are_written_whole(path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    state = {"a": whole, "b": whole, "c": whole.t(), "d": whole[1]}
    write_weights(path, state, model=small.config(), classes=CLASSES)
    read, _ = read_weights(path)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(b"{}", length=2**63),
        header(b"{}", length=10**9),
        header(b"not json"),
        header(b"[1, 2]"),
        header(b'{"a": 3}'),
        header(b'{"a": {"dtype": "F32"}}'),
        header(b'{"a": {"dtype": "F32", "shape": ["x"]}}'),
        header(b'{"__metadata__": 7}'),
        header(b"[" * 100_000),
        header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),  # the tensor is cut off
    ],
)
def test_what_is_no_safetensors_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"best\.safetensors cannot be read"):
        read_weights(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        read_header(path)
