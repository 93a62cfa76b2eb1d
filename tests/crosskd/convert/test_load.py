"""Weights of every known origin, and files that are none."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from crosskd.convert.load import load_weights
from crosskd.convert.mmdet import to_mmdet
from crosskd.detectors.detector import Detector
from crosskd.engine.weights import write_weights
from crosskd.errors import WeightsError
from tests.crosskd import small


@pytest.fixture
def trained() -> Detector:
    return small.detector(7)


def mmdet_state(model: Detector) -> dict[str, Tensor]:
    return {to_mmdet(name): tensor for name, tensor in model.state_dict().items()}


def write(kind: str, model: Detector, path: Path) -> None:
    meta = {"epoch": 12, "cfg": "model = dict(...)", "dataset_meta": {"CLASSES": ("a", "b", "c")}}
    match kind:
        case "ours":
            write_weights(path, model.state_dict(), model=model.config, classes=["a", "b", "c"])
        case "ours, bare":
            torch.save(model.state_dict(), path)
        case "mmdet":
            torch.save({"state_dict": mmdet_state(model), "meta": meta}, path)
        case "mmdet, bare":
            torch.save(mmdet_state(model), path)
        case "mmdet, safetensors":
            save_file(mmdet_state(model), path)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("ours", "safetensors"),
        ("ours, bare", "pth"),
        ("mmdet", "pth"),
        ("mmdet, bare", "pth"),
        ("mmdet, safetensors", "safetensors"),
    ],
)
def test_each_kind_of_file_gives_the_detector_back(trained: Detector, tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    write(kind, trained, path)
    model = small.detector(8)
    report = load_weights(model, path)
    assert (report.missing, report.unexpected) == ([], [])
    assert report.matched == list(model.state_dict())
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_missing_and_unknown_names_are_an_error_or_a_report(trained: Detector, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = {**mmdet_state(trained), "bbox_head.atss_centerness.weight": torch.zeros(1)}
    del state["bbox_head.gfl_cls.bias"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"1 missing \(head.cls.bias\); 1 unknown \(bbox_head.atss_centerness"):
        load_weights(small.detector(8), path)
    report = load_weights(small.detector(8), path, strict=False)
    assert report.missing == ["head.cls.bias"]
    assert report.unexpected == ["bbox_head.atss_centerness.weight"]


@pytest.mark.parametrize("strict", [True, False])
def test_every_tensor_of_another_shape_is_listed_and_nothing_is_loaded(tmp_path: Path, strict: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(small.detector(7, classes=5).state_dict(), path)
    model = small.detector(8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path, strict=strict)
    assert "head.cls.weight is [5, 16, 3, 3], the model has [3, 16, 3, 3]" in str(caught.value)
    assert "head.cls.bias is [5], the model has [3]" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Bomb:
    """What a hostile pickle does when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_does_not(trained: Detector, tmp_path: Path, writer: str) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    content = {"state_dict": mmdet_state(trained), "meta": Bomb(trace)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="nothing of it was run"):
        load_weights(trained, path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04 truncated", b"\xff" * 64])
def test_what_is_no_weights_file_is_named(trained: Detector, tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"weights.{suffix}"):
        load_weights(trained, path)


def test_a_truncated_file_is_named(trained: Detector, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(trained.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(trained, path)


def test_a_missing_file_and_a_folder_are_named(trained: Detector, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no file none\.pth"):
        load_weights(trained, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(trained, tmp_path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(3)])
def test_a_file_without_tensors_by_name_is_refused(trained: Detector, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"holds (no tensors by name|a list|a Tensor)"):
        load_weights(trained, path)


def test_a_backbone_alone_is_no_detector(trained: Detector, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(trained.backbone.state_dict(), path)
    with pytest.raises(WeightsError, match="holds no detector"):
        load_weights(trained, path)
