"""An export from its configuration to its files, by the function and by the command."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from crosskd.__main__ import app
from crosskd.data.folder import read_samples
from crosskd.data.images import ORIENTATION
from crosskd.detectors.detector import build_detector
from crosskd.errors import CrossKDError, ExportError, Interrupted
from crosskd.onnx.check import Graph, compare
from crosskd.runs.export import export
from crosskd.spec.config import AugmentConfig, DataConfig, ExportConfig
from crosskd.weights.native import write_weights
from tests.support import small
from tests.support.finished import CLASSES, detector, write_finished, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished(tmp_path_factory.mktemp("weights") / "best.safetensors")


@pytest.fixture(scope="module")
def exported(data: DataConfig, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """What the command left, and what it said."""
    folder = tmp_path_factory.mktemp("exported")
    options = ["--images", data.val.images, "--workdir", str(folder), "--set", "check_images=3", "--set", "threads=1"]
    result = CliRunner().invoke(app, ["export", str(weights), *options])
    assert result.exit_code == 0, result.output
    return folder, result


def test_the_command_writes_a_graph_and_says_how_well_it_agrees(exported: tuple[Path, Result], weights: Path) -> None:
    folder, result = exported
    assert "detections in 3 images agree with PyTorch's" in result.output
    manifest = json.loads((folder / "manifest.json").read_text())

    content = (folder / "model.onnx").read_bytes()
    assert manifest["file"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["file"]["bytes"] == len(content)
    assert manifest["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    check = manifest["check"]
    assert (check["images"], check["batches"]) == (3, 6)
    assert check["detections"] > 10  # else nothing would be compared
    assert 0 < check["box_difference"] < check["box_tolerance"] == 0.1
    assert 0 < check["score_difference"] < check["score_tolerance"] == 1e-4
    model = manifest["model"]
    assert model["image"] == [64, 96]
    assert model["parameters"] > 0
    assert model["gflops"] > 0
    assert {name: entry["threads"] for name, entry in model["latency"].items()} == {"pytorch": 1, "onnx": 1}
    assert all(entry["milliseconds"] > 0 for entry in model["latency"].values())

    described = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    assert json.loads(described["classes"]) == CLASSES
    images = {"antialias": True, "sixteen_bit": "high_byte"}
    assert json.loads(described["scale"]) == {"val_short_edge": 64, "long_edge": 96, "pad_to": 32} | images
    assert "antialias" in described["images"]
    assert "the graph agrees with PyTorch" in (folder / "log.txt").read_text()


def test_the_page_on_weights_does_what_it_says(
    exported: tuple[Path, Result], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every piece of Python in docs/weights.md, as a reader types it; the graph finds what `crosskd.load` finds."""
    page = (Path(__file__).parents[3] / "docs" / "weights.md").read_text()
    load, header, graph = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights, "best.safetensors")
    shutil.copy(exported[0] / "model.onnx", "model.onnx")
    noise = np.random.default_rng(3).integers(0, 256, (70, 121, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise).save("street.jpg", exif=exif)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(load, names)
        found = names["found"]
        exec(header, names)
        exec(graph, names)
    assert said.getvalue().startswith(f"{found.classes[0]} {found.scores[0]:.3f} ")
    assert '"short_edge": 64' in said.getvalue()
    assert len(found) == names["counts"][0] > 3
    assert np.abs(names["scores"][0, : len(found)] - found.scores).max() < 1e-4
    alike = np.diff(found.scores, prepend=2, append=-1)
    apart = (alike[1:] < -1e-3) & (alike[:-1] < -1e-3)  # neighbours with one score may change places
    assert apart.any()
    assert np.abs(names["boxes"] - found.boxes)[apart].max() < 0.2
    lines = [len(code.strip().splitlines()) - code.count("import ") for code in (load, graph)]
    assert lines[0] <= 5
    assert lines[1] <= 11


@pytest.mark.parametrize("edges", [(64, 96), (128, 160)])
def test_the_graph_takes_any_size_and_number(
    exported: tuple[Path, Result], data: DataConfig, edges: tuple[int, int]
) -> None:
    """The check that a user gets, at sizes that the graph was not made with; a model that differs is found out."""
    augment = AugmentConfig(short_edges=[edges[0]], long_edge=edges[1])
    samples = read_samples(data.val.images, 3, augment, max_pixels=10**6)
    graph, model = Graph(exported[0] / "model.onnx", threads=1), detector()
    assert len(graph.detect(samples, 32)) == 3
    check = compare(graph, model, samples, 32)
    assert (check.images, check.batches) == (3, 6)
    assert check.detections > 10
    with torch.no_grad():
        for parameter in model.head.box.parameters():
            parameter.mul_(1.05)
    with pytest.raises(ExportError, match="other boxes than PyTorch"):
        compare(graph, model, samples, 32)


def make(weights: Path, /, **more: Any) -> ExportConfig:
    return ExportConfig.model_validate({"weights": {"file": str(weights)}, "device": "cpu", **more})


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "/images"),
        ({"classes": ["x", "y", "z"]}, "/classes"),
        ({"postprocess": {"score": "root"}}, "/postprocess"),
        ({"images": "EMPTY"}, "EMPTY"),
        ({"weights": {"job": "0" * 32}}, "/weights/job"),
    ],
)
def test_what_cannot_be_exported(weights: Path, tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    changes = {name: str(empty) if value == "EMPTY" else value for name, value in changes.items()}
    with pytest.raises(CrossKDError) as caught:
        export(make(weights, **changes), tmp_path / "out")
    assert caught.value.where == (str(empty) if where == "EMPTY" else where)
    assert caught.value.remedy
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_backbone_whose_windows_depend_on_the_size_is_refused(data: DataConfig, tmp_path: Path) -> None:
    model = small.config(backbone={"name": "swin_t", "width": None, "init": "random"}, depth=1, strides=[8, 16, 32])
    path = tmp_path / "swin.safetensors"
    state = build_detector(model, len(CLASSES), pretrained=False).state_dict()
    write_weights(path, state, model=model, classes=CLASSES)
    with pytest.raises(ExportError, match="swin_t cannot be exported"):
        export(make(path, images=data.val.images), tmp_path / "out")


def test_the_command_names_the_fault(weights: Path, tmp_path: Path) -> None:
    options = ["--images", str(tmp_path), "--workdir", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["export", str(weights), *options, "--set", "opset=3"])
    assert result.exit_code == 2
    assert result.stderr.startswith("/opset: ")
    result = CliRunner().invoke(app, ["export", str(weights), *options])
    assert result.exit_code == 1
    assert "no image that can be read" in result.stderr


def test_a_stop_ends_it(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        export(make(weights, images=data.val.images), tmp_path, stop=stop)
    assert not (tmp_path / "model.onnx").exists()
