"""The graph computes what the detector does: the same boxes, scores and classes, for any batch and size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from crosskd.data.demo import write_demo
from crosskd.data.folder import read_samples
from crosskd.data.transforms import Sample, collate
from crosskd.detectors.detector import Detector
from crosskd.errors import ExportError
from crosskd.onnx.check import Graph, compare, raw_batch
from crosskd.onnx.families import exported, pipeline_of
from crosskd.onnx.graph import write_graph
from crosskd.onnx.pipeline import NOBODY
from crosskd.spec.config import AugmentConfig, PostprocessConfig
from crosskd.structures import Detections
from tests.support import small

MULTIPLE = 32
SIZES = [(96, 128), (160, 224)]  # short and long edge
DETECTORS: dict[str, dict[str, Any]] = {
    "gfl": {"pixels": {"order": "bgr", "mean": (100.0, 110.0, 120.0), "std": (1.0, 1.0, 1.0)}},
    "retinanet": {},
    "atss": {"depth": 2},
    # Their own backbones are so deep that rounding alone moves the scores of random weights by as much as is allowed
    # here; tests/crosskd/runs/test_train_own_backbones.py exports trained ones.
    "rtmdet": {"depth": 2, "head": {"exp_on_reg": True}},
    "yolox": {"depth": 2},
    # As torchvision's: where a cell stands depends on the size of the image.
    "fcos": {"postprocess": {"score": "root"}, "head": {"spread_cells": True}, "strides": [8, 16, 32, 64, 128]},
    "faster_rcnn": {},
    "faster_rcnn of torchvision on a MobileNet": {
        "backbone": {"name": "mobilenet_v3_large", "width": None, "init": "random"},
        "strides": [32, 32, 64],
        "regions": {"anchor_sizes": [32, 64], "rpn_score_threshold": 0.45},
    },
    "faster_rcnn of MMDetection": {"regions": {"aligned": True, "sampling_ratio": 0, "version": "v2"}},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[Sample]]:
    """Drawn images, two at each scale, of unlike sizes."""
    folder = tmp_path_factory.mktemp("images")
    write_demo(folder, train=1, val=2, size=160, classes=3, seed=3)
    found = {}
    for short, long in SIZES:
        augment = AugmentConfig(short_edges=[short], long_edge=long)
        first, second = read_samples(folder / "images", 2, augment, max_pixels=10**6)
        cut = Sample(second.pixels[: short - 9, : short - 20], second.boxes, second.labels, 1, (1.0, 1.0), (1, 1))
        found[short, long] = [first, cut]
    return found


def make(name: str, **postprocess: Any) -> Detector:
    """A detector with something to say: the threshold is low, and it keeps fewer than there are."""
    options = dict(DETECTORS[name])
    known = options.pop("postprocess", {})
    wanted = {"score_threshold": 0.01, "pre_nms": 60, "max_detections": 40, **known, **postprocess}
    if name.startswith("faster_rcnn"):
        return small.two_stage(1, postprocess=wanted, **options).eval()
    options = {"depth": 1, "strides": [8, 16, 32], **options}
    return small.detector(1, detector=name, postprocess=wanted, **options).eval()


def seeing(name: str, images: dict[tuple[int, int], list[Sample]]) -> Detector:
    """Such a detector whose scores are apart: RTMDet's and YOLOX's deep batch norm has seen these images."""
    detector = make(name)
    if name in ("rtmdet", "yolox") or detector.config.coarsest:
        small.settled(detector, collate(images[SIZES[1]], detector.config.pixels, MULTIPLE).images)
    if name in ("rtmdet", "yolox"):
        for layer in detector.head.get_submodule("cls").children():
            layer.get_parameter("weight").data /= 2
    if name == "yolox":  # it multiplies two scores, which begin near zero
        for part in ("cls", "objectness"):
            for layer in detector.head.get_submodule(part).children():
                layer.get_parameter("bias").data.zero_()
    return detector


def expected(detector: Detector, samples: list[Sample]) -> list[Detections]:
    batch = collate(samples, detector.config.pixels, MULTIPLE)
    return detector.detect(batch.images, batch.targets.sizes)


def assert_same(found: list[Detections], wanted: list[Detections]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(theirs.scores) > 3  # else nothing would be compared
        assert ours.labels.tolist() == theirs.labels.tolist()
        torch.testing.assert_close(ours.boxes, theirs.boxes, atol=0.1, rtol=0)
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)


def unpacked(outputs: tuple[torch.Tensor, ...]) -> list[Detections]:
    boxes, scores, labels, counts = outputs
    return [Detections(boxes[i, :n], scores[i, :n], labels[i, :n]) for i, n in enumerate(counts.tolist())]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", SIZES)
def test_the_pipeline_is_what_the_detector_does(name: str, size: tuple[int, int], images: Any) -> None:
    """Before any export: normalisation, decoding, selection and NMS in fixed shapes."""
    detector = seeing(name, images)
    pipeline = pipeline_of(detector)
    pixels, sizes = map(torch.from_numpy, raw_batch(images[size], MULTIPLE))
    with torch.no_grad():
        outputs = pipeline(pixels, sizes)
    assert_same(unpacked(outputs), expected(detector, images[size]))


def test_rows_behind_the_last_detection_are_empty(images: Any) -> None:
    detector = make("gfl", max_detections=300, score_threshold=0.0)
    pixels, sizes = map(torch.from_numpy, raw_batch(images[SIZES[0]], MULTIPLE))
    with torch.no_grad():
        boxes, scores, labels, counts = pipeline_of(detector)(pixels, sizes)
    assert boxes.shape == (2, 300, 4)
    for image, count in enumerate(counts.tolist()):
        assert 0 < count < 300
        assert not boxes[image, count:].any()
        assert not scores[image, count:].any()
        assert (labels[image, count:] == NOBODY).all()


def test_what_lies_in_the_padding_does_not_matter(images: Any) -> None:
    detector = make("gfl")
    pixels, sizes = map(torch.from_numpy, raw_batch(images[SIZES[0]], MULTIPLE))
    pipeline = pipeline_of(detector)
    with torch.no_grad():
        plain = pipeline(pixels, sizes)
        for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
            image[:, height:], image[:, :, width:] = 255.0, 77.0
        filled = pipeline(pixels, sizes)
    assert all(torch.equal(a, b) for a, b in zip(plain, filled, strict=True))


@pytest.mark.parametrize("found", ["none", "few"])
def test_images_without_proposals_and_with_fewer_than_there_may_be(found: str, images: Any) -> None:
    """One that is moved out of its image by as much as anchors are large has no side left in it."""
    detector = make("faster_rcnn")
    with torch.no_grad():
        detector.head.rpn.bbox_pred.bias[0::4] = 1e4 if found == "none" else -1.0
    pixels, sizes = map(torch.from_numpy, raw_batch(images[SIZES[0]], MULTIPLE))
    with torch.no_grad():
        outputs = pipeline_of(detector)(pixels, sizes)
    wanted = expected(detector, images[SIZES[0]])
    assert [len(one.scores) for one in wanted] == outputs[3].tolist()
    if found == "none":
        assert not any(part.any() for part in (*outputs[:2], outputs[3]))
    else:
        assert_same(unpacked(outputs), wanted)


@pytest.mark.slow  # tracing takes ten seconds each; test_export.py does it once
@pytest.mark.parametrize("name", DETECTORS)
def test_onnxruntime_finds_what_pytorch_finds(name: str, images: Any, tmp_path: Path) -> None:
    detector = seeing(name, images)
    path = tmp_path / "model.onnx"
    pipeline = pipeline_of(detector)
    write_graph(pipeline, path, opset=18, metadata={"classes": json.dumps(["a", "b", "c"])})
    graph = Graph(path, threads=1)
    for size in SIZES:
        first, second = images[size]
        for batch in ([first], [second], [first, second], [second, first, first]):
            assert_same(graph.detect(batch, MULTIPLE), expected(detector, batch))
            assert compare(graph, detector, batch, MULTIPLE).at_the_limit == 0
    if detector.config.two_stage:
        nothing = torch.zeros(1, 3, MULTIPLE, MULTIPLE).numpy()
        counts = graph.run(nothing, torch.tensor([[1, 0]]).numpy())[3]  # an image without width has no proposals
        assert counts.tolist() == [0]
    _assert_described(path)


def _assert_described(path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model)
    axes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "images": ["batch", 3, "height", "width"],
        "sizes": ["batch", 2],
        "boxes": ["batch", 40, 4],
        "scores": ["batch", 40],
        "labels": ["batch", 40],
        "counts": ["batch"],
    }
    assert {entry.key: entry.value for entry in model.metadata_props}["classes"] == '["a", "b", "c"]'
    assert [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")] == [18]


def test_a_model_without_a_form_in_onnx_is_refused_in_words(tmp_path: Path) -> None:
    detector = make("gfl")

    class Odd(exported(detector).pipeline):  # type: ignore[misc]  # whichever it is
        def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> Any:
            return sizes if images.sum() > 0 else -sizes  # which of the two, only the pixels tell

    with pytest.raises(ExportError, match="cannot be written as ONNX") as caught:
        write_graph(Odd(detector, PostprocessConfig()), tmp_path / "model.onnx", opset=18, metadata={})
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ExportError, match="does not load the graph"):
        Graph(path, threads=1)


def test_a_graph_that_fails_is_told_in_words(images: Any, tmp_path: Path) -> None:
    tensor = onnx.helper.make_tensor_value_info
    kinds = onnx.TensorProto
    node = onnx.helper.make_node("Reshape", ["images", "sizes"], ["boxes"])  # no batch of images has such a shape
    inputs = [tensor("images", kinds.FLOAT, [None, 3, None, None]), tensor("sizes", kinds.INT64, [None, 2])]
    flat = onnx.helper.make_node("Flatten", ["sizes"], ["flat"], axis=0)
    node.input[1] = "shape"
    squeeze = onnx.helper.make_node("Squeeze", ["flat"], ["shape"])
    graph = onnx.helper.make_graph([flat, squeeze, node], "g", inputs, [tensor("boxes", kinds.FLOAT, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="cannot run the graph on 2 images of 96 x 96"):
        Graph(tmp_path / "model.onnx", threads=1).detect(images[SIZES[0]], MULTIPLE)


def test_postprocessing_is_the_one_asked_for() -> None:
    """The pipeline heeds its own section, not the detector's."""
    detector = make("gfl")
    few = exported(detector).pipeline(detector, PostprocessConfig(max_detections=2, score_threshold=0.0, pre_nms=5))
    with torch.no_grad():
        boxes, _, _, counts = few(torch.rand(1, 3, 64, 64) * 255, torch.tensor([[64, 64]]))
    assert boxes.shape == (1, 2, 4)
    assert counts.tolist() == [2]
