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

import crosskd
from crosskd.convert.formats import from_native
from crosskd.convert.load import load_weights
from crosskd.detectors.detector import Detector
from crosskd.errors import WeightsError
from crosskd.spec.registry import DENSE
from crosskd.weights.native import write_weights
from tests.support import small

# The mildest model of each; torchvision has two of the detectors, and only as it builds them.
MODELS: dict[str, dict[str, Any]] = {detector: {"detector": detector} for detector in DENSE}
TORCHVISION: dict[str, dict[str, Any]] = {
    "retinanet": {
        "depth": 4,
        "head": {"whole_pixel_anchors": True, "spread_cells": True},
    },
    "fcos": {
        "head": {
            "conv_bias": True,
            "norm_on_bbox": True,
            "centerness_on_reg": True,
            "point_offset": 0.0,
            "spread_cells": True,
        },
        "postprocess": {"score": "root"},
    },
}


def torchvision_model(detector: str) -> dict[str, Any]:
    backbone = {"name": "resnet18", "width": 64, "init": "random"}
    return {"detector": detector, "backbone": backbone, "neck": {"relu_before_p7": True}, **TORCHVISION[detector]}


@pytest.fixture
def trained() -> Detector:
    return small.detector(7)


def mmdet_state(model: Detector) -> dict[str, Tensor]:
    return from_native(model.state_dict(), "mmdet", model.config)


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


KINDS = pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("ours", "safetensors"),
        ("ours, bare", "pth"),
        ("mmdet", "pth"),
        ("mmdet, bare", "pth"),
        ("mmdet, safetensors", "safetensors"),
    ],
)


@KINDS
@pytest.mark.parametrize("detector", DENSE)
def test_each_kind_of_file_gives_the_detector_back(tmp_path: Path, detector: str, kind: str, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    trained, model = (small.detector(seed, **MODELS[detector]) for seed in (7, 8))
    write(kind, trained, path)
    report = load_weights(model, path)
    assert (report.missing, report.unexpected) == ([], [])
    assert report.matched == list(model.state_dict())
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("detector", TORCHVISION)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvisions_files_give_the_detector_back(tmp_path: Path, detector: str, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    trained, model = (small.detector(seed, **torchvision_model(detector)) for seed in (7, 8))
    with torch.no_grad():  # a student's own factors, which the file replaces by 1
        for parameter in model.head.scales or []:
            parameter.fill_(2.0)
    theirs = from_native(trained.state_dict(), "torchvision", trained.config)
    assert not any("scales" in name for name in theirs)
    save_file(theirs, path) if suffix == "safetensors" else torch.save(theirs, path)
    report = load_weights(model, path)
    assert (report.missing, report.unexpected) == ([], [])
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_tower_too_many_is_unknown_by_the_files_own_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(mmdet_state(small.detector(7, depth=4)), path)
    report = load_weights(small.detector(8), path, strict=False)
    assert [name for name in report.unexpected if "cls_convs" in name] == [
        "bbox_head.cls_convs.3.conv.weight", "bbox_head.cls_convs.3.gn.weight", "bbox_head.cls_convs.3.gn.bias",
    ]  # fmt: skip


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


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_tensors_that_are_no_floating_point_numbers_are_refused(trained: Detector, tmp_path: Path, dtype: Any) -> None:
    state = trained.state_dict()
    save_file(state | {"head.cls.bias": state["head.cls.bias"].to(dtype)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"no floating-point numbers: head.cls.bias is {str(dtype)[6:]}"):
        load_weights(trained, tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_taken(trained: Detector, tmp_path: Path, dtype: Any) -> None:
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in
             trained.state_dict().items()}  # fmt: skip
    save_file(state, tmp_path / "w.safetensors")
    load_weights(trained, tmp_path / "w.safetensors")
    for name, tensor in trained.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert torch.equal(tensor, state[name].to(tensor.dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_detector_is_refused(trained: Detector, tmp_path: Path, value: float) -> None:
    state = trained.state_dict()
    save_file(state | {"head.box.bias": torch.full_like(state["head.box.bias"], value)}, tmp_path / "w.safetensors")
    before = {name: tensor.clone() for name, tensor in state.items()}
    with pytest.raises(WeightsError, match=r"1 tensors with NaN or infinity: head\.box\.bias"):
        load_weights(trained, tmp_path / "w.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


@pytest.mark.parametrize("form", ["sparse", "meta"])
def test_tensors_that_are_no_plain_ones_are_refused(trained: Detector, tmp_path: Path, form: str) -> None:
    weight = trained.state_dict()["head.cls.weight"]
    odd = weight.to_sparse() if form == "sparse" else weight.to("meta")
    torch.save(trained.state_dict() | {"head.cls.weight": odd}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"sparse, quantised or without values, such as head\.cls\.weight"):
        load_weights(trained, tmp_path / "w.pth")


def test_text_is_said_to_be_no_pytorch_file(trained: Detector, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("hello")
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read: it is no PyTorch file"):
        load_weights(trained, tmp_path / "w.pth")


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
    with pytest.raises(WeightsError, match=r"is a folder without config\.json"):
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


def test_a_detr_as_transformers_saves_it_is_named(trained: Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model.decoder.layers.0.fc1.bias": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="a DETR as transformers saves it"):
        load_weights(trained, path)


def test_a_training_checkpoint_detects_with_its_student(checkpoint_of_a_run: Path) -> None:
    loaded = crosskd.load(checkpoint_of_a_run, device="cpu")
    assert (loaded.classes, loaded.scale.short_edge) == (["A", "B", "E"], 64)
    assert loaded.input["size_is"] == "recorded"
