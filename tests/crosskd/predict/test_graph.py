"""What a graph says of itself, and what it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crosskd.errors import WeightsError
from crosskd.predict.answer import results
from crosskd.predict.graph import OnnxDetector
from tests.support.tiny_graph import CLASSES, IDS, tiny_graph


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_boxes_are_those_of_the_original_image(tmp_path: Path) -> None:
    graph = OnnxDetector(write(tmp_path / "a.onnx", tiny_graph()), threads=1)
    found = graph.detect(Image.new("RGB", (400, 200)))
    assert np.allclose(found.boxes, [[0, 0, 200, 100], [100, 100, 400, 150]], atol=1e-3)
    assert [(category.id, category.name) for category in graph.categories] == list(zip(IDS, CLASSES, strict=True))
    first, second = results(found, graph.categories, 5)
    assert (first.image_id, first.category_id, first.bbox, first.score) == (5, 7, (0, 0, 200, 100), 0.9)
    assert (second.category_id, second.bbox) == (3, (100, 100, 300, 50))
    best = found.best(0.5, 100)
    assert (len(best.scores), best.left_out) == (1, 1)
    assert found.best(0.0, 1).left_out == 1


def test_ids_are_counted_where_the_graph_does_not_say_them(tmp_path: Path) -> None:
    graph = OnnxDetector(write(tmp_path / "a.onnx", tiny_graph(category_ids=None)), threads=1)
    assert [category.id for category in graph.categories] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no graph", "onnxruntime does not load a.onnx"),
        (tiny_graph(scale=None), "no graph of ours"),
        (tiny_graph(classes=None), "no graph of ours"),
        (tiny_graph(category_ids=[1]), "no graph of ours"),
    ],
)
def test_what_is_no_graph_of_ours(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        OnnxDetector(write(tmp_path / "a.onnx", content))
    assert "crosskd export" in caught.value.remedy
