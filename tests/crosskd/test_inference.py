"""`crosskd.load`: weights in use give the boxes that an evaluation counts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import crosskd
from crosskd.convert.convert import prepare
from crosskd.data.images import ORIENTATION
from crosskd.errors import ConfigError, CrossKDError, WeightsError
from crosskd.evaluation import evaluate as evaluation
from crosskd.runs.evaluate import evaluate_weights
from crosskd.spec.config import DataConfig, EvaluateConfig
from crosskd.weights.native import read_header, write_weights
from tests.support import small
from tests.support.finished import CLASSES, detector, write_images

ORIENTED, PLAIN, BGR = 6, {"val_short_edge": 48, "long_edge": 80, "pad_to": 32, "antialias": False}, {"order": "bgr"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Images of several sizes: one stored on its side, one of 16 bits, one grey."""
    data = write_images(tmp_path_factory.mktemp("data"))
    truth = json.loads(Path(data.val.annotations).read_text())
    folder, rng = Path(data.val.images), np.random.default_rng(0)
    truth["annotations"] = [{**box, "bbox": [2, 3, 30, 20], "area": 600} for box in truth["annotations"]]
    for entry, (width, height) in zip(truth["images"], [(96, 60), (50, 90), (97, 64), (64, 64)], strict=True):
        entry |= {"width": width, "height": height, "file_name": f"{entry['id']}.png"}
    first, second, third, fourth = (
        rng.integers(0, 256, (entry["height"], entry["width"], 3), np.uint8) for entry in truth["images"]
    )
    names = [folder / entry["file_name"] for entry in truth["images"]]
    Image.fromarray(first).save(names[0])
    exif = Image.Exif()
    exif[ORIENTATION] = ORIENTED
    Image.fromarray(np.ascontiguousarray(np.rot90(second))).save(names[1], exif=exif)
    Image.fromarray(third[:, :, 0].astype(np.uint16) * 16).save(names[2])
    Image.fromarray(fourth[:, :, 0]).save(names[3])
    Path(data.val.annotations).write_text(json.dumps(truth))
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def written(path: Path, **augment: Any) -> Path:
    model = detector()
    config = model.config.model_copy(update={"pixels": model.config.pixels.model_copy(update=BGR)})
    extra = {"augment": json.dumps(PLAIN | augment)}
    write_weights(path, model.state_dict(), model=config, classes=CLASSES, extra=extra)
    return path


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    return written(folder / "best.safetensors", sixteen_bit="own_range")


def images_of(data: DataConfig) -> dict[int, Path]:
    entries = json.loads(Path(data.val.annotations).read_text())["images"]
    return {entry["id"]: Path(data.val.images) / entry["file_name"] for entry in entries}


def same(found: Any, expected: Any) -> bool:
    return all(np.array_equal(getattr(found, name), getattr(expected, name)) for name in ("boxes", "scores", "labels"))


@pytest.mark.parametrize(
    "settings", [{}, {"antialias": True, "keep_ratio": False}, {"sixteen_bit": "own_range"}], ids=str
)
def test_boxes_are_those_of_an_evaluation(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    counted: dict[int, Any] = {}
    measure = evaluation.average_precision

    def listening(truth: Any, found: Any, **options: Any) -> Any:
        counted.clear()
        counted.update(found)
        return measure(truth, found, **options)

    monkeypatch.setattr(evaluation, "average_precision", listening)
    path = written(tmp_path / "w.safetensors", **settings)
    values = {"weights": {"file": str(path)}, "data": {"val": data.val.model_dump()}, "device": "cpu", "workers": 0}
    evaluate_weights(EvaluateConfig.model_validate({**values, "batch_size": 1}))

    loaded, images = crosskd.load(path, device="cpu"), images_of(data)
    assert counted.keys() == images.keys()
    for number, image in images.items():
        found = loaded.detect(image)
        assert len(found) > 3
        assert same(found, counted[number])
        assert found.classes == [CLASSES[label] for label in found.labels]

    evaluate_weights(EvaluateConfig.model_validate({**values, "batch_size": 4}))
    together = dict(zip(counted, loaded.detect([images[number] for number in counted]), strict=True))
    assert all(same(found, counted[number]) for number, found in together.items())


def test_an_image_comes_in_any_form(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    loaded = crosskd.load(str(weights), device=torch.device("cpu"))
    for path in images_of(data).values():
        found = loaded.detect(str(path))
        assert same(loaded.detect(Image.open(path)), found)
    first, second, *_ = images_of(data).values()
    array = np.asarray(Image.open(first))
    assert same(loaded.detect(array), loaded.detect(first))
    assert same(loaded.detect(np.asfortranarray(array)), loaded.detect(first))
    upright = np.ascontiguousarray(np.rot90(np.asarray(Image.open(second)), -1))
    assert same(loaded.detect(upright), loaded.detect(second))
    (tmp_path / "link.png").symlink_to(first)  # named by who calls, so it may lead anywhere
    assert same(loaded.detect(tmp_path / "link.png"), loaded.detect(first))
    assert [len(found.boxes) > 0 for found in loaded.detect((first, array, Image.open(second)))] == [True] * 3
    assert loaded.detect([]) == []
    with pytest.raises(ConfigError, match="`batch_size` is 0"):
        loaded.detect([first], batch_size=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda _: None, "no image, but NoneType. Give the path of an image, a PIL image, or a uint8 array"),
        (lambda _: [np.zeros((4, 4, 3), np.uint8), {}], r"but dict \(at images\[1\]\)"),
        (lambda _: torch.zeros(3, 4, 4), r"but torch.Tensor"),
        (lambda _: np.zeros((4, 4, 3)), r"but an array of float64 \[4, 4, 3\]"),
        (lambda _: np.zeros((3, 4, 5), np.uint8), r"but an array of uint8 \[3, 4, 5\]"),
        (lambda _: np.zeros((0, 4, 3), np.uint8), "but an image of 4 x 0 pixels"),
        (lambda _: Image.new("F", (4, 4)), "32-bit pixels"),
        (lambda _: Image.new("RGB", (101, 100)), "101 x 100 has more than max_image_pixels .* `crosskd.load`"),
        (lambda tmp: tmp / "gone.png", "is missing .*gone.png"),
        (lambda tmp: tmp, "not a regular file"),
        (lambda _: "a\0b", "the path cannot be opened"),
        (lambda tmp: broken(tmp / "a.png"), "not an image of a known format .*Give another image"),
        (lambda tmp: large(tmp / "a.png"), "more than max_image_pixels .* `crosskd.load`"),
        (lambda _: Image.open(cut()), "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_said(weights: Path, tmp_path: Path, image: Callable[[Path], Any], message: str) -> None:
    loaded = crosskd.load(weights, device="cpu", max_image_pixels=10_000)
    with pytest.raises(CrossKDError, match=message):
        loaded.detect(image(tmp_path))


def broken(path: Path) -> Path:
    path.write_bytes(b"broken")
    return path


def large(path: Path) -> Path:
    Image.new("RGB", (101, 100)).save(path)
    return path


def cut() -> io.BytesIO:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(whole, "png")
    return io.BytesIO(whole.getvalue()[:2000])


def test_the_file_says_what_its_images_must_be(weights: Path, folder: Path) -> None:
    metadata, _ = read_header(weights)
    contract = json.loads(metadata["input"])
    pixels = detector().config.pixels
    assert contract == crosskd.load(weights, device="cpu").input
    assert contract | {
        "short_edge": 48, "long_edge": 80, "size_is": "recorded", "antialias": False, "sixteen_bit": "own_range",
        "order": "bgr", "mean": list(pixels.mean), "std": list(pixels.std), "pad_to": 32,
    } == contract  # fmt: skip
    assert "without antialiasing" in contract["resize"]

    # A conversion writes it anew, in every form; without a recorded scale it is that of an evaluation.
    for target, name in (("native", "again.safetensors"), ("mmdet", "theirs.safetensors")):
        prepare(weights, target).write(folder / name)
        assert read_header(folder / name)[0]["input"] == metadata["input"]
    prepare(weights, "mmdet").write(folder / "theirs.pth")
    content = torch.load(folder / "theirs.pth", weights_only=True)
    assert content["meta"]["crosskd"]["input"] == metadata["input"]
    silent = folder / "silent.safetensors"
    write_weights(silent, detector().state_dict(), model=detector().config, classes=CLASSES)
    told = json.loads(read_header(silent)[0]["input"])
    assert (told["short_edge"], told["long_edge"], told["antialias"]) == (800, 1333, True)
    assert told["size_is"].startswith("by default")


def test_other_projects_files_are_loaded(data: DataConfig, weights: Path, tmp_path: Path) -> None:
    """Ours in their form; theirs, whose model is recognised; and a bare state dict of a model that is named."""
    image, model = next(iter(images_of(data).values())), detector()
    expected = crosskd.load(weights, device="cpu").detect(image)
    prepare(weights, "mmdet").write(tmp_path / "mmdet.pth")
    assert same(crosskd.load(tmp_path / "mmdet.pth", device="cpu").detect(image), expected)

    torch.save(model.state_dict(), tmp_path / "bare.pth")
    loaded = crosskd.load(tmp_path / "bare.pth", device="cpu", model=model.config.model_dump(), classes=CLASSES)
    assert (loaded.scale.short_edge, loaded.scale.antialias) == (800, True)
    assert not loaded.detector.training
    with pytest.raises(ConfigError, match=r"does not say how its 3 classes are called .* Give `classes`"):
        crosskd.load(tmp_path / "bare.pth", device="cpu", model=model.config)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "gpu"}, ConfigError, "the device 'gpu' cannot be used"),
        ({"device": "cuda:99"}, ConfigError, "the device 'cuda:99' cannot be used"),
        ({"classes": "ABE"}, ConfigError, "one text"),
        ({"classes": ["A"]}, ConfigError, "names 1 classes, and the tensors are made for 3"),
        ({"model": {"detector": "yolo"}}, ConfigError, "this is no model: .*yolo"),
        ({"model": small.config(depth=2)}, WeightsError, r"does not fit .* missing .* Give `model`"),
        ({"max_image_pixels": 0}, ConfigError, "max_image_pixels"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    weights: Path, options: dict[str, Any], error: type[CrossKDError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        crosskd.load(weights, **{"device": "cpu", **options})
    assert "--" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.safetensors", "there is no file"), ("", "is a folder without"), ("a.png", "holds more than tensors")],
)
def test_what_is_no_weights_file_is_said(tmp_path: Path, name: str, message: str) -> None:
    large(tmp_path / "a.png")
    with pytest.raises(WeightsError, match=message):
        crosskd.load(tmp_path / name, device="cpu")
