"""A training leaves its best student as ONNX; what goes wrong with that fails nothing, and is told."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crosskd
from crosskd.data.coco import CocoDataset
from crosskd.data.images import ORIENTATION
from crosskd.detectors.detector import Detector
from crosskd.engine.callbacks import Run
from crosskd.errors import ExportError, Interrupted
from crosskd.onnx import apart
from crosskd.onnx.apart import Watch
from crosskd.onnx.families import pipeline_of
from crosskd.onnx.graph import write_graph
from crosskd.predict.graph import OnnxDetector
from crosskd.predict.picture import decode
from crosskd.runs.train import train
from crosskd.runs.trained_onnx import export_best
from crosskd.spec.config import DataConfig, OnnxConfig, StudentConfig, TrainConfig
from crosskd.weights.files import File
from tests.support.finished import CLASSES, detector, write_finished, write_images
from tests.support.trainings import Story, config, digest

BOX_TOLERANCE, SCORE_TOLERANCE = 0.2, 1e-4  # of the original's pixels; as the check of an export has it


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """With category ids that are not counted from 1."""
    data = write_images(tmp_path_factory.mktemp("data"))
    for split in (data.train, data.val):
        path = Path(split.annotations)
        truth = json.loads(path.read_text())
        for category in truth["categories"]:
            category["id"] = 10 * category["id"] + 3
        for box in truth["annotations"]:
            box["category_id"] = 10 * box["category_id"] + 3
        path.write_text(json.dumps(truth))
    return data


class Files(Story):
    def on_file(self, run: Run, file: File) -> None:
        assert digest(file.path) == file.sha256
        self.receive(file.name, run)


def images(folder: Path) -> list[Path]:
    """Noise of several sizes; one is stored on its side, one has 16 bits, one is grey."""
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    made = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((70, 121), (130, 50), (64, 96))]
    made[0].save(folder / "side.jpg", exif=exif)
    made[1].save(folder / "high.png")
    made[2].convert("L").save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 2**16, (90, 80), np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


def write_here(model: Detector, path: Path, *, opset: int, metadata: Mapping[str, str], watch: Watch) -> None:
    """`write_graph_apart` without the process, and so without its imports: test_export.py has both."""
    watch.check()
    write_graph(pipeline_of(deepcopy(model).eval()), path, opset=opset, metadata=metadata)


def test_a_training_exports_and_the_graph_finds_what_the_weights_find(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "write_graph_apart", write_here)
    torch.set_num_threads(1)
    story = Files()
    training = config(data.model_dump(), schedule={"max_steps": 1}, export={"check_images": 1})
    result = train(training, tmp_path / "run", callbacks=[story])
    end = story.events[story.events.index("last.safetensors") :]
    assert end == ["last.safetensors", "exporting", "uploading", "model.onnx", "manifest.json", "end"]
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())["onnx"]
    assert told == result.manifest["onnx"]
    assert told["sha256"] == digest(tmp_path / "run" / "model.onnx")
    assert told["check"]["images"] == 1

    graph = OnnxDetector(tmp_path / "run" / "model.onnx", threads=1)
    assert [(category.id, category.name) for category in graph.categories] == [(13, "A"), (23, "B"), (33, "E")]
    assert graph.weights_sha256 == digest(result.best_weights)
    loaded = crosskd.load(result.best_weights, device="cpu")
    (tmp_path / "images").mkdir()
    for path in images(tmp_path / "images"):
        image, _ = decode(path.read_bytes(), graph.scale, max_pixels=10**6)
        found, expected = graph.detect(image), loaded.detect(path)
        assert len(found.scores) == len(expected) > 3
        assert np.abs(found.scores - expected.scores).max() < SCORE_TOLERANCE
        alike = np.diff(expected.scores, prepend=2, append=-1)
        apart_ = (alike[1:] < -1e-3) & (alike[:-1] < -1e-3)  # neighbours with one score may change places
        assert np.abs(found.boxes - expected.boxes)[apart_].max(initial=0) < BOX_TOLERANCE
        assert (found.labels == expected.labels)[apart_].all()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("no", name="onnxscript"), "there is no onnxscript here: pip install 'crosskd[export]'"),
        (ExportError("the graph finds other boxes", remedy="Try another opset."), "the graph finds other boxes. Try"),
        (RuntimeError("of\nmany lines"), "RuntimeError: of many lines"),
        (MemoryError(), "MemoryError"),
        (Interrupted("stopped on request", step=0), "a stop was requested meanwhile"),
    ],
)
def test_what_goes_wrong_is_told(
    error: Exception,
    reason: str,
    data: DataConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def write(_detector: object, path: Path, **_options: object) -> None:
        path.write_bytes(b"half a graph")
        raise error

    monkeypatch.setattr(apart, "write_graph_apart", write)
    with caplog.at_level(logging.WARNING):
        file, told = export_best(finished(data, tmp_path), OnnxConfig(), validation(data))
    assert file is None
    assert told["missing"].startswith(reason)
    assert f"no ONNX is written: {reason}" in caplog.text
    assert not (tmp_path / "model.onnx").exists()


def test_a_backbone_that_is_known_not_to_export_is_not_tried(
    data: DataConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished(data, tmp_path)
    student = StudentConfig.model_validate({"backbone": {"name": "swin_t"}})
    run.config = run.config.model_copy(update={"student": student})
    with caplog.at_level(logging.WARNING):
        _, told = export_best(run, OnnxConfig(), validation(data))
    assert "swin_t cannot be exported" in told["missing"]
    assert [record.getMessage() for record in caplog.records] == [f"no ONNX is written: {told['missing']}"]


def finished(data: DataConfig, folder: Path) -> Run:
    write_finished(folder / "best.safetensors")
    values = {"data": data.model_dump(), "student": detector().config.model_dump()}
    return Run(TrainConfig.model_validate(values), folder, threading.Event())


def validation(data: DataConfig) -> CocoDataset:
    return CocoDataset(data.val.annotations, data.val.images, CLASSES, train=False)
