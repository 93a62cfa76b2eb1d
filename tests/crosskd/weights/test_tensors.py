"""PyTorch files that are small on the disk and large in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crosskd.engine.checkpoint import read_checkpoint, write_checkpoint
from crosskd.errors import CheckpointCorrupt, WeightsError
from crosskd.spec.results.files import checkpoint_name
from crosskd.weights import pytorch
from crosskd.weights.tensors import read_tensors

ZEROS = {"weight": torch.zeros(1_000_000)}
NOISE = {"weight": torch.rand(1_000)}


def packed(path: Path) -> Path:
    """The same archive, compressed."""
    other = path.with_name(f"packed-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return other


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(ZEROS, tmp_path / "zeros.pth")
    bomb = packed(tmp_path / "zeros.pth")
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr(torch, "load", _never)
    with pytest.raises(WeightsError, match=r"packed-zeros.pth cannot be read: its \d+ bytes unpack to 400\d{4}, more"):
        read_tensors(bomb)


def test_a_checkpoint_is_none_either(tmp_path: Path) -> None:
    bomb = packed(write_checkpoint(tmp_path, 5, {"model": ZEROS}).path).rename(tmp_path / "alone.pt")
    assert read_checkpoint(tmp_path / checkpoint_name(5))["model"].keys() == ZEROS.keys()
    with pytest.raises(CheckpointCorrupt, match=r"alone\.pt cannot be read: its \d+ bytes unpack to"):
        read_checkpoint(bomb)


def test_one_entry_told_of_many_times_counts_as_often(tmp_path: Path) -> None:
    """Overlapping entries: each is as large as the file, and together they are no longer modest."""
    torch.save(NOISE, tmp_path / "noise.pth")
    with zipfile.ZipFile(tmp_path / "noise.pth", "a") as archive:
        data = next(entry for entry in archive.infolist() if entry.filename.endswith("data/0"))
        archive.filelist.extend([data] * 100)
        archive._didModify = True  # type: ignore[attr-defined]  # write the table of contents anew
    with pytest.raises(WeightsError, match="unpack to"):
        read_tensors(tmp_path / "noise.pth")


@pytest.mark.parametrize("change", [lambda path: path, packed], ids=["as torch writes it", "compressed"])
def test_modest_files_are_read(tmp_path: Path, change: Callable[[Path], Path]) -> None:
    torch.save(NOISE, tmp_path / "noise.pth")
    assert torch.equal(read_tensors(change(tmp_path / "noise.pth"))["weight"], NOISE["weight"])


def test_entries_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(NOISE, tmp_path / "noise.pth")
    monkeypatch.setattr(pytorch, "MAX_ENTRIES", 3)
    with pytest.raises(WeightsError, match="entries, and at most 3 are read"):
        read_tensors(tmp_path / "noise.pth")


def _never(*_: object, **__: object) -> None:
    raise AssertionError("it was unpacked")
