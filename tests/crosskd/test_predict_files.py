"""`python -m crosskd predict FILE IMAGE...`: a graph or weights on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from crosskd.__main__ import app
from tests.support import library_folders
from tests.support.finished import write_finished
from tests.support.tiny_graph import tiny_graph


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two of one name, and one that is none."""
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "street.jpg", tmp_path / "other" / "street.png"]
    for path in paths:
        Image.new("RGB", (400, 200)).save(path)
    (tmp_path / "\x1b[2Jno.png").write_text("this is no image at all")
    return [*paths, tmp_path / "\x1b[2Jno.png"]


def test_a_graph_finds_objects_without_a_service(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(tiny_graph())
    out = tmp_path / "out"
    done = invoke(tmp_path / "a.onnx", *images, "-o", out, "--score", "0.1")
    assert done.exit_code == 1  # for the one that is no image
    assert sorted(path.name for path in out.iterdir()) == ["predictions.json", "street-boxes-2.png", "street-boxes.png"]
    found = json.loads((out / "predictions.json").read_text())
    assert [(row["image_id"], row["category_id"], row["bbox"]) for row in found["results"]] == [
        (0, 7, [0, 0, 200, 100]), (0, 3, [100, 100, 300, 50]), (1, 7, [0, 0, 200, 100]), (1, 3, [100, 100, 300, 50]),
    ]  # fmt: skip
    assert [image["file_name"] for image in found["images"]][:2] == ["street.jpg", "street.png"]
    assert found["images"][2]["fault"]["kind"] == "format"
    with Image.open(out / "street-boxes.png") as picture:
        assert picture.size == (400, 200)
    assert "ring 0.90" in done.output
    assert "no image of a known format" in done.output
    assert "\x1b" not in done.output

    told = invoke(tmp_path / "a.onnx", images[0], "-o", out, "--json")
    assert told.exit_code == 0
    assert len(json.loads(told.output)["results"]) == 1  # of a picture's own least score


@pytest.mark.parametrize("folder", [False, True])
def test_weights_find_objects_by_pytorch(folder: bool, images: list[Path], tmp_path: Path) -> None:
    weights = tmp_path / "best.safetensors"
    if folder:
        library_folders.write(weights, "rt_detr", id2label=dict(enumerate(["N/A", "A", "B", "E"])))
    else:
        write_finished(weights)
    done = invoke(weights, images[0], "-o", tmp_path / "out", "--score", "0", "--max", "5")
    assert done.exit_code == 0, done.output
    assert ("1 of its 4 classes stand for nothing and are left out: N/A 0" in done.stderr) == folder
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(found["results"]) == 5
    assert found["categories"] == [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}, {"id": 3, "name": "E"}]
    assert found["images"][0]["left_out"] > 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.onnx", None, "there is no such file"),
        ("bad.onnx", b"no graph", "onnxruntime does not load bad.onnx"),
        ("bad.safetensors", b"junk", "bad.safetensors"),
    ],
)
def test_files_that_are_no_model(
    name: str, content: bytes | None, message: str, images: list[Path], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = invoke(tmp_path / name, images[0], "-o", tmp_path / "out")
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert not (tmp_path / "out").exists()
